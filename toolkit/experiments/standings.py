"""What an experiment's directory says: whether its runs are a file's, which are done, how far the others are."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from toolkit.components import read_config
from toolkit.config import RunConfig
from toolkit.documents import walk
from toolkit.errors import KeyPath, RunError
from toolkit.experiments.plans import PlannedRun
from toolkit.records import ENDED, read_evaluation, read_result, text_of

FILE = "experiment.yaml"
EVALUATION = "evaluation.json"
_MOST_SHOWN = 10  # differences
_WINDOW = 100  # episodes, as in Gym's definition of solved


def is_done(directory: Path, evaluation_episodes: int) -> bool:
    """Say whether a run has come to its own end and has been evaluated with so many episodes.

    :raises RunError: if what says so is damaged
    """
    if not directory.is_dir() or not has_ended(directory):
        return False
    evaluation = read_evaluation(directory / EVALUATION)
    return evaluation is not None and evaluation["episodes"] == evaluation_episodes


def has_ended(directory: Path) -> bool:
    """Say whether training in a run directory has come to its own end.

    :raises RunError: if what says so is damaged
    """
    return (read_result(directory / "result.json") or {}).get("status") in ENDED


def refuse_others(directory: Path, planned: Mapping[str, PlannedRun], file: Path) -> None:
    """Refuse a directory that holds something else than runs that a file stands for.

    :param planned: the file's runs, by their directories in the experiment's
    :raises RunError: then, with what differs
    :raises ConfigError: if a run's config is none
    """
    try:
        if not directory.exists() or all(path.name.endswith(".tmp") for path in directory.iterdir()):
            return
    except OSError as error:
        raise RunError(f"{directory}: cannot be read: {error.strerror}", "choose another place with --out") from None
    if not (directory / FILE).is_file():
        raise RunError(f"{directory}: is not empty, and no experiment", "choose a new directory with --out")
    differences: list[str] = []
    for path in sorted(directory.glob("*/seed-*/config.yaml")):
        run = planned.get(path.parent.relative_to(directory).as_posix())
        differences += [f"has {path.parent}, which {file} does not"] if run is None else _differences(path, run)
    if differences:
        lines = [f"{directory}: is the directory of another experiment than {file}", *differences[:_MOST_SHOWN]]
        lines += [f"and {len(differences) - _MOST_SHOWN} more"] if len(differences) > _MOST_SHOWN else []
        raise RunError("\n  ".join(lines), "choose another directory with --out")


def _differences(path: Path, run: PlannedRun) -> Iterator[str]:
    """Say what a run's config says otherwise than the file would have it."""
    planned = run.config
    try:
        if text_of(path) == planned.to_yaml():  # which takes less time than reading it
            return
    except (OSError, ValueError):
        pass  # why it cannot be read is said below
    there, here = _values(read_config(path)), _values(planned)
    for place in dict.fromkeys([*there, *here]):
        before, now = there.get(place, "not given"), here.get(place, "not given")
        if before != now:
            yield f"{path}: {'.'.join(map(str, place))} is {before} and would be {now}"


def _values(config: RunConfig) -> dict[KeyPath, str]:
    """Return what a config says, without what only holds something else, as text: NaN is not equal to itself."""
    data = config.to_document().data
    return {place: repr(value) for place, value in walk(data) if not value or not isinstance(value, dict | list)}


class Progress:
    """How far a run is, read from its ``monitor.csv`` while that grows.

    :ivar timesteps: in completed episodes
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "monitor.csv"
        self._file_number = 0
        self._read = 0
        self._start()

    def _start(self) -> None:
        self._read, self.timesteps = 0, 0
        self._returns: deque[float] = deque(maxlen=_WINDOW)

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last 100 episodes, or of as many as there are."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def follow(self, since: float) -> bool:
        """Read what has been written; say whether training has begun.

        :param since: when, in seconds; files from before are an earlier training's
        """
        try:
            state = os.stat(self._path)
            if state.st_mtime < since:
                return False
            if state.st_ino != self._file_number or state.st_size < self._read:  # written anew
                self._start()
                self._file_number = state.st_ino
            with self._path.open("rb") as file:
                file.seek(self._read)
                self._take(file.read())
        except OSError:
            return False
        return True

    def _take(self, text: bytes) -> None:
        whole, line_end, _ = text.rpartition(b"\n")  # what follows is still being written
        self._read += len(whole) + len(line_end)
        for line in whole.split(b"\n"):
            try:
                raw_return, length, _ = line.split(b",")
                self._returns.append(float(raw_return))
                self.timesteps += int(length)
            except ValueError:  # the lines above the table
                continue
