"""The progress of a run that another process trains, read from its growing ``monitor.csv``."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from toolkit.utils.data import DEFAULT_WINDOW, mean_of_last


class MonitorTail:
    """Reads the episodes that training appends to the ``monitor.csv`` of a run directory.

    :ivar timesteps: when the last episode counted
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "monitor.csv"
        self._inode = 0
        self._reset()

    def _reset(self) -> None:
        self._offset, self.timesteps = 0, 0
        self._returns: deque[float] = deque(maxlen=DEFAULT_WINDOW)

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last 100 episodes, or of all if there are fewer; ``None`` before the first."""
        return mean_of_last([*self._returns])

    def poll(self, since: float) -> bool:
        """Read the new episodes; return whether training has begun.

        :param since: time in seconds; an older file belongs to an earlier training
        """
        try:
            state = os.stat(self._path)
            if state.st_mtime < since:
                return False
            if state.st_ino != self._inode or state.st_size < self._offset:  # training has replaced the file
                self._reset()
                self._inode = state.st_ino
            with self._path.open("rb") as file:
                file.seek(self._offset)
                self._parse(file.read())
        except OSError:
            return False
        return True

    def _parse(self, text: bytes) -> None:
        lines, line_end, _ = text.rpartition(b"\n")  # what follows is still being written
        self._offset += len(lines) + len(line_end)
        for line in lines.split(b"\n"):
            try:
                raw_return, length, _, *further = line.split(b",")
                self._returns.append(float(raw_return))
                self.timesteps = int(further[0]) if further else self.timesteps + int(length)
            except ValueError:  # the lines above the table
                continue
