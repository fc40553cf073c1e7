"""When snapshots of a run are taken, which are kept, and which one training goes on from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.config.schema import RunConfig
from toolkit.snapshots import archive
from toolkit.snapshots.plain_data import NotPlainError
from toolkit.utils.errors import RunError
from toolkit.utils.files import atomic_file, read_text

_log = logging.getLogger("toolkit")
_SCORES = "scores.json"


class SnapshotStore:
    """The snapshots of a run: ``snapshots/<timesteps>/`` in its directory, the newest of them and the best.

    :param run_directory: whose they are
    :param config: of the run; it says when they are taken and how many are kept
    """

    def __init__(self, run_directory: Path, config: RunConfig) -> None:
        self._config = config
        self._root = run_directory / "snapshots"
        self._plan = config.snapshots
        self._last_minutes = time.monotonic()
        self._last_mark = 0
        self._damaged: list[Path] = []

    def latest_valid(self) -> dict[str, Any] | None:
        """Read the newest snapshot that is not damaged; None if there is none.

        :raises RunError: if it is of another config than the run has now, or there are some and none can be read here
        """
        unread: RunError | None = None
        for directory in archive.stored(self._root):
            try:
                kept: dict[str, Any] = archive.read(directory)
            except RunError as error:
                _log.warning("%s; the one before it is taken", error.message)
                if isinstance(error, archive.DamagedError):
                    self._damaged.append(directory)
                else:
                    unread = error
                continue
            if not isinstance(kept, dict) or kept.get("config") != self._config.to_yaml():
                hint = "restore it, or train it as a run of its own"
                raise RunError(f"{self._root.parent}: config.yaml is not the one that {directory} was made with", hint)
            return kept
        if unread:
            raise unread
        return None

    def resume_from(self, timesteps: int) -> None:
        """Count from a snapshot that training goes on from; those that are damaged make room."""
        for directory in self._damaged:
            archive.remove(directory)
        self._last_mark = self._mark(timesteps)

    def is_due(self, timesteps: int) -> bool:
        """Say whether it is time for a snapshot, by steps or by the clock."""
        minutes = self._plan.every_minutes
        by_clock = minutes is not None and time.monotonic() - self._last_minutes >= 60 * minutes
        return by_clock or self._mark(timesteps) > self._last_mark

    def save(self, timesteps: int, take: Callable[[], dict[str, Any]], score: float | None) -> None:
        """Write a snapshot and delete those that are not kept; where it cannot be written, say so and go on.

        :param score: mean raw return of the last episodes, if any has been completed: it says which one is the best
        """
        self._last_minutes = time.monotonic()
        self._last_mark = self._mark(timesteps)
        directory = self._root / str(timesteps)
        if directory.exists():
            return
        try:
            archive.write(directory, take() | {"config": self._config.to_yaml()})
            self._prune({timesteps: score})
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            _log.warning("no snapshot at timestep %d: %s%s", timesteps, error.strerror or error, where)
        except NotPlainError as error:
            _log.warning("no snapshot at timestep %d: %s", timesteps, error)

    def _mark(self, timesteps: int) -> int:
        every = self._plan.every_timesteps
        return timesteps // every if every else 0

    def _prune(self, new: dict[int, float | None]) -> None:
        there = [*archive.stored(self._root)]
        scores = {name: score for name, score in self._scores().items() if name in {path.name for path in there}}
        scores |= {str(timesteps): score for timesteps, score in new.items() if score is not None}
        best = max(scores, key=lambda name: (scores[name], int(name)), default=None)
        for old in there[self._plan.keep :]:
            if old.name != best:
                archive.remove(old)
                scores.pop(old.name, None)
        with atomic_file(self._root / _SCORES) as path:
            path.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8", newline="")

    def _scores(self) -> dict[str, float]:
        try:
            scores = json.loads(read_text(self._root / _SCORES))
            return {name: float(score) for name, score in scores.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
