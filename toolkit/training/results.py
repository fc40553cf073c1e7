"""Read ``result.json``, ``evaluation.json`` and ``monitor.csv``, and check that training could have written them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.utils.data import LARGEST_RETURN, MONITOR_COLUMNS
from toolkit.utils.errors import RunError
from toolkit.utils.files import read_text

ENDED = ("success", "finished")  # status of a run that needs no resume
_MAX_RESULT_BYTES = 1 << 20
_MAX_EVALUATION_BYTES = 1 << 26  # a million returns
_MAX_MONITOR_BYTES = 1 << 28  # ten million episodes
_NUMBER, _COUNT = (int, float), (int,)
_RESULT: dict[str, tuple[type, ...]] = {
    "status": (str,),
    "seed": _COUNT,
    "timesteps": _COUNT,
    "episodes": _COUNT,
    "seconds": _NUMBER,
    "mean_return": (int, float, type(None)),
    "success": (dict, type(None)),
    "diagnosis": (str,),
    "no_update": (str,),
}
_SUCCESS: dict[str, tuple[type, ...]] = {
    "measure": (str,),
    "evaluation": (str,),
    "threshold": _NUMBER,
    "episodes": _COUNT,
    "solved": (bool,),
    "episode": (int, type(None)),
    "timestep": (int, type(None)),
    "seconds": (int, float, type(None)),
    "mean_return": (int, float, type(None)),
    "success_rate": (int, float, type(None)),
    "greedy_value": (int, float, type(None)),
}

_EVALUATION: dict[str, tuple[type, ...]] = {"episodes": _COUNT, "mean_return": _NUMBER}


class RecordedEpisode(NamedTuple):
    """One line of ``monitor.csv``.

    :param length: number of the agent's steps
    :param timestep: number of the run's timesteps when the episode counted
    """

    raw_return: float
    length: int
    timestep: int


def read_result(path: Path) -> dict[str, Any] | None:
    """Read ``result.json``; return None if it does not exist.

    ``mean_return`` is missing from files of version 0.1.0, ``diagnosis`` from runs without a sign that they did not
    learn. Earlier files had ``no_update`` in its place.

    :raises RunError: if its content is not what training writes
    """
    try:
        result = json.loads(read_text(path, _MAX_RESULT_BYTES))
        _check(result, _RESULT)
        success = result.get("success") or {}
        _check(success, _SUCCESS)
        success.setdefault("measure", "mean_return")  # version 0.1.0 knew no other
        if success.get("episodes", 1) < 1 or (success.get("episode") or 1) < 1:
            raise ValueError("a window has at least one episode, and episodes are counted from 1")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: it is not the JSON object that training writes") from error
    if "no_update" in result:
        result["diagnosis"] = f"no update was made: {result.pop('no_update')}"
    return dict(result)


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Read ``evaluation.json``: number of greedy episodes and mean raw return; return None if it does not exist.

    :raises RunError: if its content is not what an evaluation writes
    """
    try:
        evaluation = json.loads(read_text(path, _MAX_EVALUATION_BYTES))
        _check(evaluation, _EVALUATION)
        if evaluation["episodes"] < 1:
            raise ValueError("an evaluation has at least one episode")
        _parse_return(str(evaluation["mean_return"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        hint = "delete it: the run then counts as not evaluated"
        raise RunError(f"{path}: is damaged: it is not what an evaluation writes", hint) from error
    return {key: evaluation[key] for key in _EVALUATION}


def read_episodes(path: Path) -> list[RecordedEpisode]:
    """Read ``monitor.csv`` in SB3's format: a line of JSON, the names of the columns, a line for each episode.

    A last line that is still being written is left out. A file of version 0.1.0 or of SB3 has no timesteps: they are
    then the sum of the lengths.

    :raises FileNotFoundError: if it does not exist
    :raises RunError: if it cannot be read, or has another format
    """
    return read_episodes_with(path)[0]


def read_episodes_with(path: Path, prefix: str | None = None) -> tuple[list[RecordedEpisode], dict[str, list[float]]]:
    """Read ``monitor.csv`` as :func:`read_episodes` does, and numbers in its further columns.

    :param prefix: how the names of these columns start; None for none of them
    :return: the episodes, and by column a number for each of them, NaN where it has none
    :raises FileNotFoundError: if it does not exist
    :raises RunError: if it cannot be read, or has another format
    """
    columns, lines = _read_monitor(path)
    wanted = [] if prefix is None else [pair for pair in enumerate(columns) if pair[1].startswith(prefix)]
    has_timesteps = tuple(columns[:4]) == MONITOR_COLUMNS
    episodes: list[RecordedEpisode] = []
    numbers: dict[str, list[float]] = {name: [] for _, name in wanted}
    timestep = 0
    for number, line in enumerate(lines, start=3):
        try:
            cells = line.split(",")
            if len(cells) < len(columns):
                raise ValueError("a cell is missing")
            length = _parse_count(cells[1])
            timestep = _parse_count(cells[3]) if has_timesteps else timestep + length
            episodes.append(RecordedEpisode(_parse_return(cells[0]), length, timestep))
            if wanted:
                _append_numbers(numbers, wanted, line)
        except (ValueError, IndexError, csv.Error):
            raise RunError(f"{path}:{number}: is not an episode: {line[:80]!r}", "delete the line") from None
    return episodes, numbers


def _append_numbers(numbers: dict[str, list[float]], wanted: Sequence[tuple[int, str]], line: str) -> None:
    cells = next(csv.reader([line])) if '"' in line else line.split(",")
    for index, name in wanted:
        numbers[name].append(_parse_return(cells[index]) if cells[index] else math.nan)


def _read_monitor(path: Path) -> tuple[list[str], list[str]]:
    """Read the columns of a ``monitor.csv``, and the line of each episode that is complete.

    :raises FileNotFoundError: if it does not exist
    :raises RunError: if it cannot be read, or has another format
    """
    try:
        text = read_text(path, _MAX_MONITOR_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
    lines = [
        line.rstrip("\r") for line in text.split("\n")[:-1]
    ]  # what follows the last line end is still being written
    columns = lines[1].split(",") if len(lines) > 1 else [*MONITOR_COLUMNS]
    if not (text or "#").startswith("#") or tuple(columns[:3]) != MONITOR_COLUMNS[:3]:
        raise RunError(f"{path}: is not a monitor.csv of Stable-Baselines3", "restore it, or train the run again")
    return columns, lines[2:]


def _check(data: Any, expected: dict[str, tuple[type, ...]]) -> None:
    if not isinstance(data, dict):
        raise ValueError("it is not a mapping")
    for key in expected.keys() & data.keys():
        value = data[key]
        if type(value) not in expected[key] or (type(value) is int and abs(value) >= 2**63):
            raise ValueError(f"{key} has another type")


def _parse_return(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or abs(number) > LARGEST_RETURN:
        raise ValueError
    return number


def _parse_count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**53:
        raise ValueError
    return number
