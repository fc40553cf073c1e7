"""``result.json``, ``evaluation.json`` and ``monitor.csv``, read back as far as they are what training wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from toolkit.utils.errors import RunError
from toolkit.utils.files import read_text

ENDED = ("success", "finished")  # the status of a training that has come to its own end
LARGEST_RETURN = 1e150  # its square is still a number
_LARGEST_RESULT = 1 << 20  # bytes
_LARGEST_EVALUATION = 1 << 26  # bytes; a million returns
_LARGEST_MONITOR = 1 << 28  # bytes; ten million episodes
_NUMBER, _COUNT = (int, float), (int,)
_RESULT: dict[str, tuple[type, ...]] = {
    "status": (str,),
    "seed": _COUNT,
    "timesteps": _COUNT,
    "episodes": _COUNT,
    "seconds": _NUMBER,
    "mean_return": (int, float, type(None)),
    "success": (dict, type(None)),
}
_SUCCESS: dict[str, tuple[type, ...]] = {
    "threshold": _NUMBER,
    "episodes": _COUNT,
    "solved": (bool,),
    "episode": (int, type(None)),
    "timestep": (int, type(None)),
    "seconds": (int, float, type(None)),
    "mean_return": (int, float, type(None)),
}

_EVALUATION: dict[str, tuple[type, ...]] = {"episodes": _COUNT, "mean_return": _NUMBER}


def read_result(path: Path) -> dict[str, Any] | None:
    """Read ``result.json``; ``None`` if there is none.

    :raises RunError: if what it says is not what training says
    """
    try:
        result = json.loads(read_text(path, _LARGEST_RESULT))
        _check(result, _RESULT)
        success = result.get("success") or {}
        _check(success, _SUCCESS)
        if success.get("episodes", 1) < 1 or (success.get("episode") or 1) < 1:
            raise ValueError("a window has an episode, and episodes are counted from 1")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: it is not the JSON object that training wrote") from error
    return dict(result)


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Read ``evaluation.json``: how many greedy episodes, and their mean raw return; ``None`` if there is none.

    :raises RunError: if it does not say so
    """
    try:
        evaluation = json.loads(read_text(path, _LARGEST_EVALUATION))
        _check(evaluation, _EVALUATION)
        if evaluation["episodes"] < 1:
            raise ValueError("an evaluation has an episode")
        _return(str(evaluation["mean_return"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        hint = "remove it: the run then counts as not evaluated"
        raise RunError(f"{path}: is damaged: it is not what an evaluation wrote", hint) from error
    return {key: evaluation[key] for key in _EVALUATION}


def read_episodes(path: Path) -> list[tuple[float, int]]:
    """Read what SB3's Monitor writes: a line of JSON, the names of the columns, a line for each episode.

    A last line that is still being written is left out.

    :return: raw return and length in steps of every episode
    :raises FileNotFoundError: if there is no such file
    :raises RunError: if it is something else
    """
    try:
        text = read_text(path, _LARGEST_MONITOR)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
    lines = [line.rstrip("\r") for line in text.split("\n")[:-1]]  # after the last line end is what is being written
    if not (text or "#").startswith("#") or (len(lines) > 1 and lines[1] != "r,l,t"):
        raise RunError(f"{path}: is not a monitor.csv of Stable-Baselines3", "restore it, or train the run again")
    episodes: list[tuple[float, int]] = []
    for number, line in enumerate(lines[2:], start=3):
        try:
            raw_return, length, _ = line.split(",")
            episodes.append((_return(raw_return), _length(length)))
        except ValueError:
            raise RunError(f"{path}:{number}: is no episode: {line[:80]!r}", "remove the line") from None
    return episodes


def _check(data: Any, expected: dict[str, tuple[type, ...]]) -> None:
    if not isinstance(data, dict):
        raise ValueError("it is no mapping")
    for key in expected.keys() & data.keys():
        value = data[key]
        if type(value) not in expected[key] or (type(value) is int and abs(value) >= 2**63):
            raise ValueError(f"{key} is no such value")


def _return(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or abs(number) > LARGEST_RETURN:
        raise ValueError
    return number


def _length(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**53:
        raise ValueError
    return number
