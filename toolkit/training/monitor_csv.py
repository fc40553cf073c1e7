"""Write ``monitor.csv`` during training."""

from __future__ import annotations

import json
import time
from typing import Any

from toolkit.envs.episodes import Episode, EpisodeRecorder
from toolkit.training.callbacks import RunCallback
from toolkit.utils.files import AppendOnlyFile


class MonitorCsvWriter(RunCallback):
    """Write ``monitor.csv`` in SB3's format, and log the mean shaped return beside SB3's raw one."""

    NAME = "monitor.csv"

    def __init__(self, env: EpisodeRecorder) -> None:
        super().__init__()
        self._env = env
        self._seconds: float | None = None
        self._started = time.time()
        self._written = 0
        self._file: AppendOnlyFile | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of training, without what other callbacks do at its end."""
        return self._env.seconds if self._seconds is None else self._seconds

    def _init_callback(self) -> None:
        self._rewrite()

    def _on_step(self) -> bool:
        for episode in self.context.episodes[self._written :]:
            self._append(_row(episode))
            self._written += 1
            if self.context.run.config.env.wrappers:
                mean = self.context.episodes.mean_shaped_return(end=self._written)
                self.logger.record("rollout/ep_shaped_rew_mean", mean)
        return True

    def _append(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text.encode())

    def state_dict(self) -> dict[str, Any]:
        """Return when training started; the :class:`EpisodeRecorder` has the episodes."""
        return {"started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rewrite the file with the episodes of the snapshot."""
        self._started = state["started"]
        self._rewrite()

    def _rewrite(self) -> None:
        self.close()
        header = {"t_start": self._started, "env_id": self.context.run.config.env.id}
        rows = "".join(map(_row, self.context.episodes))
        self.context.run.write(self.NAME, f"#{json.dumps(header)}\nr,l,t\n{rows}")
        self._written = len(self.context.episodes)
        self._file = AppendOnlyFile(self.context.run.directory / self.NAME)

    def _on_training_end(self) -> None:
        self._seconds = self._env.seconds

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _row(episode: Episode) -> str:
    return f"{round(episode.raw_return, 6)},{episode.length},{round(episode.seconds, 6)}\r\n"
