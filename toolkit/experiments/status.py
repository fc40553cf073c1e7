"""The status of an experiment's runs, and whether a directory holds the runs of an experiment file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from toolkit.config import yaml_document
from toolkit.experiments.variants import PlannedRun
from toolkit.training.existing_run import compare_configs, is_unused
from toolkit.training.results import ENDED, read_evaluation, read_result
from toolkit.utils.errors import ConfigError, RunError
from toolkit.utils.files import convert_read_errors, read_text
from toolkit.utils.text import abbreviate

if TYPE_CHECKING:
    from toolkit.evaluation.evaluate import Evaluation

EXPERIMENT_FILE = "experiment.yaml"
EVALUATION_FILE = "evaluation.json"
_MAX_DIFFERENCES = 10  # in a message
_OTHER_DIRECTORY = "choose another directory with --out"


@dataclass(frozen=True)
class RunStatus:
    """How far a run has come. A damaged file counts as missing.

    :param result: content of ``result.json``; empty if it is missing
    :param evaluation: content of ``evaluation.json``; empty if it is missing
    """

    result: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the status of the run in a directory."""
        result = _read_or_empty(read_result, directory / "result.json")
        return cls(result, _read_or_empty(read_evaluation, directory / EVALUATION_FILE))

    @property
    def has_ended(self) -> bool:
        """Whether training has ended by itself."""
        return self.result.get("status") in ENDED

    def is_done(self, evaluation_episodes: int) -> bool:
        """Return whether training has ended and this number of episodes has evaluated the model."""
        return self.has_ended and self.evaluation.get("episodes") == evaluation_episodes


def _read_or_empty(read: Callable[[Path], dict[str, Any] | None], path: Path) -> dict[str, Any]:
    try:
        return read(path) or {}
    except RunError:
        return {}


def serialize_evaluation(evaluation: Evaluation) -> str:
    """Return the content of a run's ``evaluation.json``."""
    return json.dumps(asdict(evaluation), indent=2) + "\n"


def find_started_runs(directory: Path, planned: Mapping[str, PlannedRun], file: Path, text: str) -> set[str]:
    """Return the names of the planned runs that have started in a directory. One with a damaged config has not.

    :param planned: the runs of the experiment file by name
    :param text: the resolved file, which is about to be written there as ``experiment.yaml``
    :raises RunError: if the directory holds something else than these runs, with the differences
    """
    with convert_read_errors(directory, _OTHER_DIRECTORY):
        if not directory.exists() or is_unused(directory):
            return set()
    if not (directory / EXPERIMENT_FILE).is_file():
        raise RunError(f"{directory}: is not empty, and is not an experiment", "choose a new directory with --out")
    paths = {path.parent.relative_to(directory).as_posix(): path for path in directory.glob("*/seed-*/config.yaml")}
    if _is_written_by_user(directory / EXPERIMENT_FILE, file, text, bool(paths)):
        message = f"{directory / EXPERIMENT_FILE}: `toolkit experiment` did not write this file and would replace it"
        raise RunError(message, f"{_OTHER_DIRECTORY}, or rename the file")
    started: set[str] = set()
    differences: list[str] = []
    for name in sorted(paths):
        if name not in planned:
            differences.append(f"{paths[name].parent} is not a run of {file}")
            continue
        with suppress(ConfigError):  # the job of the run reports it
            differences += compare_configs(paths[name], planned[name].config)
            started.add(name)
    if differences:
        lines = [f"{directory}: holds another experiment than {file}", *abbreviate(differences, _MAX_DIFFERENCES)]
        raise RunError("\n  ".join(lines), _OTHER_DIRECTORY)
    return started


def _is_written_by_user(path: Path, file: Path, text: str, has_runs: bool) -> bool:
    """Return whether a user has probably written the ``experiment.yaml`` of a directory.

    :param file: the experiment file that describes the runs
    :param text: the resolved file
    """
    try:
        content = read_text(path)
        return content != text and (path.samefile(file) or not (has_runs or _is_resolved(content)))
    except (OSError, ValueError):
        return not has_runs


def _is_resolved(text: str) -> bool:
    try:
        data = yaml_document.parse(text, EXPERIMENT_FILE).data
    except ConfigError:
        return False
    return isinstance(data, dict) and isinstance(data.get("base"), dict) and yaml_document.dump(data) == text
