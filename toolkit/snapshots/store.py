"""The snapshots of a run: when one is due, which ones stay, and which one training resumes from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.schema import RunConfig, parse_config
from toolkit.snapshots import archive
from toolkit.snapshots.plain_data import NotPlainError
from toolkit.utils.errors import ConfigError, RunError
from toolkit.utils.files import atomic_file, read_text

_log = logging.getLogger("toolkit")
_SCORES = "scores.json"


class SnapshotStore:
    """The snapshots of a run: ``snapshots/<timesteps>/`` in its directory, the latest ones and the best.

    :param run_directory: directory of the run
    :param config: the run's config; ``snapshots`` says when one is due and how many stay
    """

    def __init__(self, run_directory: Path, config: RunConfig) -> None:
        self._config = config
        self.run_directory = run_directory
        self._root = run_directory / "snapshots"
        self._last_save_time = time.monotonic()
        self._last_interval = 0
        self._damaged: list[Path] = []

    def latest_valid(self) -> dict[str, Any] | None:
        """Read the latest snapshot that is not damaged; None if there is none.

        :raises RunError: if it is of another config, or no snapshot can be read and not all are damaged
        """
        unread: RunError | None = None
        for directory in archive.list_archives(self._root):
            try:
                state: dict[str, Any] = archive.read(directory)
            except RunError as error:
                _log.warning("%s; the snapshot before it is used", error.message)
                if isinstance(error, archive.DamagedArchiveError):
                    self._damaged.append(directory)
                else:
                    unread = error
                continue
            if not isinstance(state, dict) or not self._is_own_config(state.get("config")):
                message = f"{self._root.parent}: config.yaml differs from the config of the snapshot {directory}"
                raise RunError(message, "restore config.yaml, or start another run with the new config")
            return state
        if unread:
            raise unread
        return None

    def _is_own_config(self, text: Any) -> bool:
        """Return whether YAML is the run's config. A key of a later version counts as having its default."""
        own_text = self._config.to_yaml()
        if text == own_text:
            return True
        if not isinstance(text, str):
            return False
        with suppress(ConfigError):
            config, problems = parse_config(yaml_document.parse(text, "snapshot"))
            return not problems and config == parse_config(yaml_document.parse(own_text, "config.yaml"))[0]
        return False

    def resume_from(self, timesteps: int) -> None:
        """Count timesteps from here on, and delete damaged snapshots to make room for new ones."""
        for directory in self._damaged:
            archive.remove(directory)
        self._last_interval = self._count_intervals(timesteps)

    def is_due(self, timesteps: int) -> bool:
        """Return whether a snapshot is due, by timesteps or by the clock."""
        minutes = self._config.snapshots.every_minutes
        is_due_by_clock = minutes is not None and time.monotonic() - self._last_save_time >= 60 * minutes
        return is_due_by_clock or self._count_intervals(timesteps) > self._last_interval

    def save(self, timesteps: int, capture: Callable[[], dict[str, Any]], score: float | None) -> None:
        """Write a snapshot and delete those that ``keep`` does not allow; warn if it cannot be written.

        :param capture: returns the training state
        :param score: mean raw return of the last episodes, by which the best snapshot is chosen; None if unknown
        """
        self._last_save_time = time.monotonic()
        self._last_interval = self._count_intervals(timesteps)
        directory = self._root / str(timesteps)
        if directory.exists():
            return
        try:
            state = capture() | {"config": self._config.to_yaml()}
            scores = self._read_scores() | ({} if score is None else {directory.name: score})
            # whoever copies the directory meanwhile has the score of each snapshot
            archive.write(directory, state, before_rename=lambda: self._write_scores(scores))
            self._prune(scores)
        except OSError as error:
            location = f": {error.filename}" if error.filename else ""
            _log.warning("no snapshot at timestep %d: %s%s", timesteps, error.strerror or error, location)
        except NotPlainError as error:
            _log.warning("no snapshot at timestep %d: %s", timesteps, error)

    def _count_intervals(self, timesteps: int) -> int:
        """Return how often ``every_timesteps`` has passed."""
        every = self._config.snapshots.every_timesteps
        return timesteps // every if every else 0

    def _prune(self, scores: dict[str, float]) -> None:
        directories = [*archive.list_archives(self._root)]
        names = {directory.name for directory in directories}
        scores = {name: score for name, score in scores.items() if name in names}
        best = max(scores, key=lambda name: (scores[name], int(name)), default=None)
        for directory in directories[self._config.snapshots.keep :]:
            if directory.name != best:
                archive.remove(directory)
                scores.pop(directory.name, None)
        self._write_scores(scores)

    def _write_scores(self, scores: dict[str, float]) -> None:
        with atomic_file(self._root / _SCORES) as path:
            path.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8", newline="")

    def _read_scores(self) -> dict[str, float]:
        try:
            scores = json.loads(read_text(self._root / _SCORES))
            return {name: float(score) for name, score in scores.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
