"""Write ``monitor.csv`` during training."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from toolkit.envs.episodes import Episode, EpisodeRecorder
from toolkit.training.callbacks import RunCallback
from toolkit.utils.data import MONITOR_COLUMNS
from toolkit.utils.files import AppendOnlyFile


class MonitorCsvWriter(RunCallback):
    """Write the episodes that count to ``monitor.csv``, in the format of SB3's Monitor.

    The further columns are ``env.info_keywords``, then the other :attr:`~toolkit.envs.episodes.Episode.extras` and
    :attr:`~toolkit.envs.episodes.Episode.numbers` of all episodes so far. An episode with further ones rewrites the
    file.
    """

    NAME = "monitor.csv"

    def __init__(self, env: EpisodeRecorder) -> None:
        super().__init__()
        self._env = env
        self._seconds: float | None = None
        self._started = time.time()
        self._written = 0
        self._extra_columns: list[str] = []
        self._file: AppendOnlyFile | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of training, without what other callbacks do at its end."""
        return self._env.seconds if self._seconds is None else self._seconds

    def _init_callback(self) -> None:
        self._rewrite()

    def _on_step(self) -> bool:
        if new_episodes := self.context.episodes[self._written :]:
            if {*_list_extra_columns(new_episodes)} <= {*self._extra_columns}:
                self._append(new_episodes)
            else:
                self._rewrite()
        return True

    def _append(self, episodes: list[Episode]) -> None:
        if self._file is not None:
            self._file.write("".join(_format_row(episode, self._extra_columns) for episode in episodes).encode())
        self._written += len(episodes)

    def state_dict(self) -> dict[str, Any]:
        """Return when training started; the :class:`EpisodeRecorder` has the episodes."""
        return {"started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rewrite the file with the episodes of the snapshot."""
        self._started = state["started"]
        self._rewrite()

    def _rewrite(self) -> None:
        self.close()
        episodes = self.context.episodes
        info_keywords = self.context.run.config.env.info_keywords
        self._extra_columns = [*dict.fromkeys([*info_keywords, *_list_extra_columns(episodes)])]
        header = {"t_start": self._started, "env_id": self.context.run.config.env.name}
        columns = ",".join(MONITOR_COLUMNS) + _format_further_cells(self._extra_columns)
        rows = "".join(_format_row(episode, self._extra_columns) for episode in episodes)
        self.context.run.write(self.NAME, f"#{json.dumps(header)}\n{columns}\n{rows}")
        self._written = len(episodes)
        self._file = AppendOnlyFile(self.context.run.directory / self.NAME)

    def _on_training_end(self) -> None:
        self._seconds = self._env.seconds

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _list_extra_columns(episodes: Iterable[Episode]) -> list[str]:
    """Return the names of the episodes' extras and numbers in the order in which they first occur."""
    return [*dict.fromkeys(name for episode in episodes for name, _ in (*episode.extras, *episode.numbers))]


def _format_row(episode: Episode, extra_columns: Sequence[str]) -> str:
    numbers = f"{episode.raw_return!r},{episode.length},{round(episode.seconds, 6)},{episode.timestep}"
    extras = {**dict(episode.extras), **{name: repr(value) for name, value in episode.numbers}}
    return f"{numbers}{_format_further_cells(extras.get(name, '') for name in extra_columns)}\r\n"


def _format_further_cells(cells: Iterable[str]) -> str:
    """Return the cells of a CSV line that follow others, with a comma before each."""
    if not (texts := [*cells]):
        return ""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(["", *texts])
    return text.getvalue()
