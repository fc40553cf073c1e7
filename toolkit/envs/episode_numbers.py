"""Named numbers of training episodes, for callbacks that log them: parts of the reward, and numbers of ``info``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from toolkit.config.schema import RunConfig
from toolkit.utils.errors import FaultyEnvironmentError, KeyPath, Problem, did_you_mean, make_printable

REWARD_SUMS = "reward_sums"
"""Key in a completed episode: for each traced wrapper, innermost first, the sum of the rewards that leave it."""
REWARD_PARTS = "reward_components"
"""Key of a step's ``info``: parts of its reward, numbers by their names."""
REWARD_PREFIX, PART_PREFIX, INFO_PREFIX = "reward/", "reward/part/", "info/"
"""How the names start of what a wrapper adds to the reward, of a part in ``info``, and of another number in it."""

_FROM_VEC_ENV = "TimeLimit.truncated"  # SB3's vec envs add it
InfoValue = Literal["mean", "last"]
Numbers = tuple[tuple[str, float], ...]
_NAME = re.compile(r"[^\s,/\"](?:[^,/\"\n\r]*[^\s,/\"])?")


class LoggedInfo(NamedTuple):
    """A number of ``info`` that a callback logs.

    :param value: the mean over the steps of an episode that have it, or the last one
    :param path: where the config names the callback
    """

    name: str
    value: InfoValue
    path: KeyPath = ()

    @property
    def key(self) -> str:
        """Its name in the log."""
        return f"{INFO_PREFIX}{self.name}"

    def make_problem(self, value: Any) -> Problem:
        """Return the problem that a value is not a number."""
        message = f"info['{self.name}'] is {make_printable(repr(value), 80)}, not a number"
        return Problem(self.path, message, "remove it from names")


class EpisodeNumbers:
    """Sums up the numbers of running episodes, and returns those of an episode that has ended.

    :param config: locates the callbacks that log numbers of ``info``
    :param vec_wrappers: those that may change rewards; None if the parts of returns are not asked for
    """

    def __init__(self, n_envs: int, config: RunConfig, vec_wrappers: Sequence[str] | None = None) -> None:
        self._config = config
        self._vec_wrappers = vec_wrappers
        self._logged_info: list[LoggedInfo] = []
        self._sums: list[dict[str, list[float]]] = [{} for _ in range(n_envs)]  # sum and number of steps, by name

    def log_info(self, logged_info: Iterable[LoggedInfo]) -> None:
        """Add numbers of ``info``."""
        self._logged_info += logged_info

    def for_one_env(self) -> EpisodeNumbers:
        """Return what sums up the same numbers for one environment."""
        copy = EpisodeNumbers(1, self._config, self._vec_wrappers)
        copy.log_info(self._logged_info)
        return copy

    def find_absent_info(self, known_keys: Collection[str], has_ended: bool) -> list[Problem]:
        """Return a problem for each number of ``info`` that no step has had.

        :param known_keys: those that ``info`` has had
        :param has_ended: whether an episode has ended: its last step may have more keys
        """
        more = "" if has_ended else ", and no episode ended"
        keys = {key for sums in self._sums for key in sums}
        return [
            Problem(
                logged.path,
                f"no step of the trial has a number info['{logged.name}']{more}",
                did_you_mean(logged.name, sorted(known_keys)),
            )
            for logged in self._logged_info
            if logged.key not in keys and logged.name != _FROM_VEC_ENV
        ]

    def add_step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Add a step of all environments.

        :raises FaultyEnvironmentError: if the parts of a reward are not finite numbers with names
        :raises ConfigError: if something else that a callback logs is no number
        """
        if self._vec_wrappers is not None:
            for info, sums in zip(infos, self._sums, strict=True):
                if REWARD_PARTS in info:
                    for name, value in read_reward_parts(info).items():
                        _add(sums, f"{PART_PREFIX}{name}", value)
        for logged in self._logged_info:
            for info, sums in zip(infos, self._sums, strict=True):
                if logged.name in info:
                    self._add_info(sums, logged, info[logged.name])

    def _add_info(self, sums: dict[str, list[float]], logged: LoggedInfo, value: Any) -> None:
        try:
            number = read_number(value)
        except ValueError:
            raise self._config.make_error([logged.make_problem(value)]) from None
        if number is None:
            return
        if logged.value == "last":
            sums[logged.key] = [number, 1]
        else:
            _add(sums, logged.key, number)

    def end_episode(self, index: int, episode: Mapping[str, Any], shaped_return: float) -> Numbers:
        """Return the numbers of an environment's completed episode.

        The raw return, and what the wrappers add to it, sum up to the shaped return.
        """
        numbers: dict[str, float] = {}
        before = float(episode["r"])
        for name, after in episode.get(REWARD_SUMS, {}).items():
            numbers[f"{REWARD_PREFIX}{name}"] = after - before
            before = after
        if self._vec_wrappers:
            numbers[f"{REWARD_PREFIX}{'+'.join(self._vec_wrappers)}"] = shaped_return - before
        sums = self._sums[index]
        numbers |= {key: sums[key][0] for key in sorted(sums) if key.startswith(PART_PREFIX)}
        numbers |= {
            logged.key: sums[logged.key][0] / sums[logged.key][1] for logged in self._logged_info if logged.key in sums
        }
        return tuple((name, value) for name, value in numbers.items() if math.isfinite(value))

    def begin_episode(self, index: int) -> None:
        """Forget the running episode of an environment."""
        self._sums[index].clear()

    def reset(self) -> None:
        """Forget all running episodes."""
        for sums in self._sums:
            sums.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the running episodes."""
        return {"sums": [{key: [*pair] for key, pair in sums.items()} for sums in self._sums]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for sums, saved in zip(self._sums, state["sums"], strict=True):
            sums.clear()
            sums.update({str(key): [float(total), int(count)] for key, (total, count) in saved.items()})


def read_reward_parts(info: Mapping[str, Any]) -> dict[str, float]:
    """Return the parts of a step's reward.

    :raises FaultyEnvironmentError: if they are not finite numbers with names
    """
    parts, hint = info[REWARD_PARTS], "return a mapping of names and finite numbers"
    if not isinstance(parts, Mapping):
        message = f"the environment returns info['{REWARD_PARTS}'] as {type(parts).__name__}"
        raise FaultyEnvironmentError(message, hint)
    numbers = {}
    for name, value in parts.items():
        if not isinstance(name, str) or not is_column_name(name):
            message = f"info['{REWARD_PARTS}'] has the name {make_printable(repr(name), 80)}"
            raise FaultyEnvironmentError(message, 'use text without / , " and line ends')
        try:
            number = read_number(value)
        except ValueError:
            number = None
        if number is None:
            message = f"info['{REWARD_PARTS}']['{name}'] is {make_printable(repr(value), 80)}"
            raise FaultyEnvironmentError(message, hint)
        numbers[name] = number
    return numbers


def is_column_name(name: str) -> bool:
    """Return whether a name can be part of a column's name in ``monitor.csv`` and ``progress.csv``.

    >>> is_column_name("TimeLimit.truncated"), is_column_name("a,b")
    (True, False)
    """
    return _NAME.fullmatch(name) is not None


def read_number(value: Any) -> float | None:
    """Return a number, or a bool as 0 or 1; None for None, NaN and infinity.

    :raises ValueError: for anything else
    """
    if value is None:
        return None
    if not isinstance(value, float | int):
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError("is not a number")
        value = array.item()
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def to_columns(episodes: Sequence[Numbers]) -> dict[str, Any]:
    """Return the numbers of episodes as their names, and an array of shape (episodes, names), NaN for none."""
    names = [*dict.fromkeys(name for numbers in episodes for name, _ in numbers)]
    rows = [[values.get(name, math.nan) for name in names] for values in map(dict, episodes)]
    return {"names": names, "values": np.array(rows, np.float64).reshape(len(episodes), len(names))}


def from_columns(columns: Mapping[str, Any]) -> list[Numbers]:
    """Return what :func:`to_columns` got.

    :raises ValueError: if there is not one column for each name
    """
    return [
        tuple((str(name), value) for name, value in zip(columns["names"], row, strict=True) if not math.isnan(value))
        for row in columns["values"].tolist()
    ]


def _add(sums: dict[str, list[float]], key: str, value: float) -> None:
    pair = sums.get(key)
    if pair is None:
        sums[key] = [value, 1]
    else:
        pair[0] += value
        pair[1] += 1
