"""The evaluations during training: their log, and ``evaluations.csv``."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import LARGEST_RETURN
from toolkit.utils.errors import RunError
from toolkit.utils.files import AppendOnlyFile, read_text

FILE_NAME = "evaluations.csv"
COLUMNS = ("timestep", "label", "mean_return", "std", "ci_low", "ci_high", "success_rate", "returns", "lengths")
_MAX_BYTES = 1 << 27  # ten million returns
_LABEL = re.compile(r"\w[\w.-]{0,99}")


class PlayedEpisodes(NamedTuple):
    """Episodes that a model played.

    :param returns: raw return of each
    :param lengths: number of the agent's steps in each
    :param successes: ``info["is_success"]`` of those that say so
    """

    returns: list[float]
    lengths: list[int]
    successes: list[float]


PlayGreedily = Callable[[int, int], PlayedEpisodes]
"""Plays a number of greedy episodes with the model as it is, on environments with a seed."""


class RecordedEvaluation(NamedTuple):
    """One line of ``evaluations.csv``.

    :param timestep: number of the run's timesteps
    :param std_return: population standard deviation of the returns
    :param ci95: 95 % confidence interval of the mean return; None for one return, or equal ones
    :param success_rate: share of successes among the episodes with ``info["is_success"]``; None if no episode has it
    :param returns: raw return of each episode
    :param lengths: number of the agent's steps in each episode
    """

    timestep: int
    label: str
    mean_return: float
    std_return: float
    ci95: tuple[float, float] | None
    success_rate: float | None
    returns: tuple[float, ...]
    lengths: tuple[int, ...]


class EvaluationLog:
    """The evaluations of a run by label. It writes ``evaluations.csv`` once a label is registered.

    >>> log = EvaluationLog()
    >>> log.register("greedy")
    >>> log.add(RecordedEvaluation(500, "greedy", 9.5, 0.5, None, None, (9.0, 10.0), (9, 10)))
    >>> log.latest("greedy").mean_return
    9.5

    :param run: its directory has the file; None to write no file
    :param is_resumed: whether :meth:`load_state_dict` is called for each label
    """

    def __init__(self, run: RunDirectory | None = None, *, is_resumed: bool = False) -> None:
        self._run = run
        self._is_resumed = is_resumed
        self._to_restore: set[str] = set()
        self._evaluations: dict[str, list[RecordedEvaluation]] = {}
        self._final: dict[str, RecordedEvaluation] = {}
        self._play_greedily: dict[str, PlayGreedily] = {}

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the callbacks that evaluate."""
        return [*self._evaluations]

    def register(self, label: str, play_greedily: PlayGreedily | None = None) -> None:
        """Add a label that has no evaluation yet; the file of a resumed run stays until all labels are restored.

        :param play_greedily: plays where the evaluation plays; None if that is the run's own environment
        :raises ValueError: if another callback has it
        """
        if label in self._evaluations:
            raise ValueError(f"two evaluations have the label '{label}': give each its own")
        self._evaluations[label] = []
        if play_greedily is not None:
            self._play_greedily[label] = play_greedily
        if self._is_resumed:
            self._to_restore.add(label)
        else:
            self._rewrite()

    def find_play_greedily(self, label: str) -> PlayGreedily | None:
        """Return what plays greedy episodes where an evaluation plays; None if that is the run's own environment."""
        return self._play_greedily.get(label)

    def latest(self, label: str) -> RecordedEvaluation | None:
        """Return the latest evaluation of a label; None before the first."""
        evaluations = self._evaluations.get(label)
        return evaluations[-1] if evaluations else None

    def latest_final(self, label: str) -> RecordedEvaluation | None:
        """Return the latest evaluation of a label that a success criterion may count; None before the first."""
        return self._final.get(label)

    def count(self, label: str) -> int:
        """Return the number of evaluations of a label."""
        return len(self._evaluations.get(label, ()))

    def best(self, label: str, start: int = 0) -> RecordedEvaluation | None:
        """Return the first evaluation of a label with its best mean return; None before any.

        :param start: how many evaluations to leave out, the first ones
        """
        evaluations = self._evaluations.get(label, [])[start:]
        return max(evaluations, key=lambda evaluation: evaluation.mean_return, default=None)

    def add(self, evaluation: RecordedEvaluation, is_final: bool = True) -> None:
        """Add an evaluation and append it to the file.

        :param is_final: whether it is of the run's task: a success criterion counts none of an early stage
        """
        self._evaluations[evaluation.label].append(evaluation)
        if is_final:
            self._final[evaluation.label] = evaluation
        if self._run is not None:
            file = AppendOnlyFile(self._run.directory / FILE_NAME)
            try:
                file.write(_format_row(evaluation).encode())
            finally:
                file.close()

    def state_dict(self, label: str) -> dict[str, Any]:
        """Return the evaluations of a label as plain data; NaN for None."""
        evaluations = self._evaluations[label]
        return {
            "numbers": np.array([*map(_list_numbers, evaluations)], dtype=np.float64).reshape(-1, 6),
            "episodes": np.array([len(item.returns) for item in evaluations], dtype=np.int64),
            "returns": np.array([value for item in evaluations for value in item.returns], dtype=np.float64),
            "lengths": np.array([value for item in evaluations for value in item.lengths], dtype=np.int64),
        }

    def load_state_dict(self, label: str, state: dict[str, Any]) -> None:
        """Replace the evaluations of a label by what :meth:`state_dict` returned, also in the file."""
        ends = np.cumsum(state["episodes"])
        if not sum(state["episodes"]) == len(state["returns"]) == len(state["lengths"]):
            raise ValueError(f"the evaluations '{label}' do not have a return and a length of each episode")
        self._evaluations[label] = [
            RecordedEvaluation(
                timestep=int(timestep),
                label=label,
                mean_return=float(mean),
                std_return=float(std),
                ci95=None if math.isnan(low) else (float(low), float(high)),
                success_rate=None if math.isnan(success_rate) else float(success_rate),
                returns=tuple(map(float, state["returns"][end - n_episodes : end])),
                lengths=tuple(map(int, state["lengths"][end - n_episodes : end])),
            )
            for (timestep, mean, std, low, high, success_rate), n_episodes, end in zip(
                state["numbers"], state["episodes"], ends, strict=True
            )
        ]
        self._to_restore.discard(label)
        if not self._to_restore:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the file anew, in the order of the timesteps; labels of one timestep in the order of the callbacks."""
        if self._run is not None:
            evaluations = [item for items in self._evaluations.values() for item in items]
            rows = map(_format_row, sorted(evaluations, key=lambda evaluation: evaluation.timestep))
            self._run.write(FILE_NAME, f"{','.join(COLUMNS)}\n{''.join(rows)}")


def check_label(label: str) -> str:
    """Return a label if it is valid: it names columns of the log.

    :raises ValueError: if it is not
    """
    if not _LABEL.fullmatch(label):
        raise ValueError(f"label must be up to 100 letters, digits, '_', '.' or '-', not {label!r}")
    return label


def read_evaluations(run: RunDirectory) -> list[RecordedEvaluation]:
    """Read ``evaluations.csv`` of a run, as :func:`read_evaluation_file` does."""
    return read_evaluation_file(run.directory / FILE_NAME)


def read_evaluation_file(path: Path) -> list[RecordedEvaluation]:
    """Read an ``evaluations.csv``; empty if it does not exist. A line that is being written is left out.

    :raises RunError: if the file is damaged
    """
    try:
        lines = read_text(path, _MAX_BYTES).splitlines(keepends=True)
        if lines[:1] != [f"{','.join(COLUMNS)}\n"]:
            raise ValueError("the first line is not that of such a file")
        complete = lines if lines[-1].endswith("\n") else lines[:-1]
        return [_parse_row(row) for row in csv.DictReader(complete)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{path}: is damaged: {error}", "delete it: the run then counts as not evaluated") from error


def group_by_label(evaluations: Iterable[RecordedEvaluation]) -> dict[str, list[RecordedEvaluation]]:
    """Return the evaluations of each label, in the order of their first ones."""
    groups: dict[str, list[RecordedEvaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.label, []).append(evaluation)
    return groups


def _format_row(evaluation: RecordedEvaluation) -> str:
    cells: Sequence[Any] = [
        evaluation.timestep,
        evaluation.label,
        evaluation.mean_return,
        evaluation.std_return,
        *(evaluation.ci95 or ("", "")),
        "" if evaluation.success_rate is None else evaluation.success_rate,
        " ".join(map(repr, evaluation.returns)),
        " ".join(map(repr, evaluation.lengths)),
    ]
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _parse_row(row: Mapping[str, str]) -> RecordedEvaluation:
    returns = tuple(map(_parse_return, row["returns"].split()))
    lengths = tuple(map(int, row["lengths"].split()))
    if not returns or len(lengths) != len(returns) or (timestep := int(row["timestep"])) < 0:
        raise ValueError("an evaluation has a timestep, and a return and a length of each episode")
    low, high, rate = row["ci_low"], row["ci_high"], row["success_rate"]
    return RecordedEvaluation(
        timestep=timestep,
        label=check_label(row["label"]),
        mean_return=_parse_return(row["mean_return"]),
        std_return=_parse_return(row["std"]),
        ci95=(_parse_number(low), _parse_number(high)) if low else None,
        success_rate=_parse_return(rate) if rate else None,
        returns=returns,
        lengths=lengths,
    )


def _parse_return(text: str) -> float:
    value = _parse_number(text)
    if abs(value) > LARGEST_RETURN:
        raise ValueError(f"{text} is no return")
    return value


def _parse_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _list_numbers(evaluation: RecordedEvaluation) -> list[float]:
    rate = math.nan if evaluation.success_rate is None else evaluation.success_rate
    interval = evaluation.ci95 or (math.nan, math.nan)
    return [evaluation.timestep, evaluation.mean_return, evaluation.std_return, *interval, rate]
