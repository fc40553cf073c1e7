"""What an experiment's directory says: whether its runs are a file's, which are done, how far the others are."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from toolkit.config import yaml_document
from toolkit.config.load import read_config
from toolkit.config.schema import RunConfig
from toolkit.experiments.variants import PlannedRun
from toolkit.training.results import ENDED, LARGEST_RETURN, read_evaluation, read_result
from toolkit.utils.data import DEFAULT_WINDOW, mean_of_last
from toolkit.utils.errors import ConfigError, RunError, ToolkitError
from toolkit.utils.files import looking_at, read_text
from toolkit.utils.text import abbreviate

if TYPE_CHECKING:
    from toolkit.evaluation.evaluate import Evaluation

FILE = "experiment.yaml"
EVALUATION = "evaluation.json"
_MOST_SHOWN = 10  # differences


@dataclass(frozen=True)
class Standing:
    """How far a run has come; what is damaged counts as not there.

    :param result: what ``result.json`` says
    :param evaluation: what ``evaluation.json`` says
    """

    result: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Read how far the run in a directory has come."""
        return cls(_whole(read_result, directory / "result.json"), _whole(read_evaluation, directory / EVALUATION))

    @property
    def has_ended(self) -> bool:
        """Whether training has come to its own end."""
        return self.result.get("status") in ENDED

    def is_done(self, evaluation_episodes: int) -> bool:
        """Say whether it has, and the run has been evaluated with so many episodes."""
        return self.has_ended and self.evaluation.get("episodes") == evaluation_episodes


def _whole(read: Callable[[Path], dict[str, Any] | None], path: Path) -> dict[str, Any]:
    try:
        return read(path) or {}
    except RunError:
        return {}


def evaluation_text(directory: Path, evaluation: Evaluation) -> str:
    """Return what goes into ``evaluation.json`` of a run.

    :raises RunError: if it could not be read again
    """
    if not abs(evaluation.mean_return) <= LARGEST_RETURN:  # nor if it is not a number
        raise RunError(f"{directory}: its mean greedy return is {evaluation.mean_return}, which nothing can compare")
    return json.dumps(asdict(evaluation), indent=2) + "\n"


def has_ended(directory: Path) -> bool:
    """Say whether training in a run directory has come to its own end.

    :raises RunError: if what says so is damaged
    """
    return (read_result(directory / "result.json") or {}).get("status") in ENDED


def has_begun(directory: Path, config: RunConfig) -> bool:
    """Say whether a run with a config has begun in a directory, which may be absent.

    :raises RunError: if there is something that it cannot go on from
    """
    path = directory / "config.yaml"
    try:
        if not path.exists():
            if directory.exists() and not (directory.is_dir() and _is_new(directory)):
                raise RunError(f"{directory}: is not a run directory: it has no config.yaml")
            return False
        if difference := next(_differences(path, config), None):
            raise RunError(f"{directory}: holds a run of another config: {difference}")
        if has_ended(directory) and not (directory / "model.zip").is_file():
            raise RunError(f"{directory}: has no model.zip")
    except ToolkitError as error:
        raise RunError(error.message, f"remove {directory}: it is then trained anew") from error
    return True


def runs_in(directory: Path, planned: Mapping[str, PlannedRun], file: Path, text: str) -> set[str]:
    """Return which of a file's runs have begun in a directory; where the config is damaged, none has.

    :param planned: the file's runs, by their directories in the experiment's
    :param text: what is to be written there as ``experiment.yaml``
    :raises RunError: if there is something else than the file stands for, with what differs
    """
    with looking_at(directory, "choose another place with --out"):
        if not directory.exists() or _is_new(directory):
            return set()
    if not (directory / FILE).is_file():
        raise RunError(f"{directory}: is not empty, and no experiment", "choose a new directory with --out")
    paths = {path.parent.relative_to(directory).as_posix(): path for path in directory.glob("*/seed-*/config.yaml")}
    if _is_somebodys(directory / FILE, file, text, bool(paths)):
        message = f"{directory / FILE}: would be overwritten, and `toolkit experiment` has not written it"
        raise RunError(message, "choose another directory with --out, or rename it")
    begun: set[str] = set()
    differences: list[str] = []
    for name in sorted(paths):
        if name not in planned:
            differences.append(f"has {paths[name].parent}, which {file} does not")
            continue
        with suppress(ConfigError):  # its job says so
            differences += _differences(paths[name], planned[name].config)
            begun.add(name)
    if differences:
        lines = [f"{directory}: is the directory of another experiment than {file}"]
        lines += abbreviate(differences, _MOST_SHOWN)
        raise RunError("\n  ".join(lines), "choose another directory with --out")
    return begun


def _is_new(directory: Path) -> bool:
    """Say whether nothing is in a directory but what was being written when a process was killed."""
    return all(path.name.endswith(".tmp") for path in directory.iterdir())


def _is_somebodys(own: Path, file: Path, text: str, has_runs: bool) -> bool:
    """Say whether an experiment's own file is one that a user has written, as far as that can be told.

    :param file: the one that the runs come from
    :param text: what is to be written
    """
    try:
        there = read_text(own)
        return there != text and (own.samefile(file) or not (has_runs or _is_resolved(there)))
    except (OSError, ValueError):
        return not has_runs


def _is_resolved(text: str) -> bool:
    try:
        data = yaml_document.parse(text, FILE).data
    except ConfigError:
        return False
    return isinstance(data, dict) and isinstance(data.get("base"), dict) and yaml_document.dump(data) == text


def _differences(path: Path, planned: RunConfig) -> Iterator[str]:
    """Say what a run's config says otherwise than one that is planned.

    :raises ConfigError: if it is none
    """
    try:
        if read_text(path) == planned.to_yaml():  # which takes less time than reading it
            return
    except (OSError, ValueError):
        pass  # why it cannot be read is said below
    there, here = (yaml_document.leaves(config.to_document().data) for config in (read_config(path), planned))
    for place in dict.fromkeys([*there, *here]):
        before, now = there.get(place, "not given"), here.get(place, "not given")
        if before != now:
            yield f"{path}: {'.'.join(map(str, place))} is {before} and would be {now}"


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
        self._returns: deque[float] = deque(maxlen=DEFAULT_WINDOW)

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last 100 episodes, or of as many as there are."""
        return mean_of_last([*self._returns])

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
