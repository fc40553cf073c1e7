"""A search space: values of a config by dotted path, each between two bounds or among choices."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from toolkit.config.compose import apply_override, shadows
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.schema import RunConfig
from toolkit.config.snippets import dump_inline
from toolkit.config.validation import StrictModel
from toolkit.config.yaml_document import Document, get_locations, walk
from toolkit.utils.errors import ConfigError, KeyPath, Problem

ABSENT = object()
"""In the place of a value that a base does not have; null is one that it has."""
_LEADING = re.compile(r"^(algorithm|env)\.((policy_)?params\.)?")
_NOT_SEARCHED = {
    "timesteps": "trials are compared at equal timesteps",
    "seed": "the tuning file's 'seeds' says which there are",
    "name": "it changes nothing",
}


def _number(value: Any) -> Any:
    if isinstance(value, bool | str) or (isinstance(value, int | float) and not abs(value) <= sys.float_info.max):
        raise ValueError("Input should be a number")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]


class Searched(StrictModel):
    """Where a value is searched for: between two bounds, or among choices."""

    low: Number | None = None
    """The smallest value."""
    high: Number | None = None
    """The largest value, itself included."""
    log: bool = False
    """Whether every order of magnitude is as likely as any other."""
    step: Number | None = None
    """The distance between neighbouring values, of which `low` and `high` are two."""
    choices: tuple[Any, ...] | None = None
    """The values there are; lists and components too."""


@dataclass(frozen=True)
class Dimension:
    """A value that is searched for.

    :param path: its dotted path in the config
    :param present: the value in the base; :data:`ABSENT` if there is none
    :param is_whole: whether it is searched for among whole numbers alone
    """

    path: str
    searched: Searched
    present: Any
    is_whole: bool

    @property
    def labels(self) -> list[Any]:
        """The choices as a database can hold them: what is no scalar is YAML in one line."""
        scalar = str | int | float | None
        return [one if isinstance(one, scalar) else dump_inline(one) for one in self.searched.choices or ()]

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of those searched among."""
        searched = self.searched
        if searched.choices is not None:
            return value in searched.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or searched.low is None:
            return False
        steps = (value - searched.low) / (searched.step or 1)
        on_a_step = (searched.step is None and not self.is_whole) or math.isclose(steps, round(steps), abs_tol=1e-9)
        return searched.low <= value <= (searched.high or 0) and on_a_step


def make_space(search: Mapping[str, Searched], base: RunConfig) -> tuple[Dimension, ...]:
    """Return what is searched for, with the values that the base has there."""
    data = base.to_document().data
    presents = {path: _present(data, path) for path in search}
    return tuple(
        Dimension(path, one, presents[path], _is_whole(one, path, presents[path], base))
        for path, one in search.items()
    )


def space_problems(space: Sequence[Dimension], base: RunConfig, document: Document) -> Iterator[Problem]:
    """Say what is wrong with a space; the ends of each range and every choice are tried in the base.

    :param document: the file, which has the space under ``search``
    """
    for dimension in space:
        own = [*_own_problems(dimension), *_overlaps(dimension, space)]
        yield from own or _unfit_values(dimension, base, document)


def config_with(base: RunConfig, values: Mapping[str, Any]) -> ResolvedConfig:
    """Lay values by dotted path over a config.

    :raises ConfigError: if they do not fit together
    """
    document = base.to_document()
    for path, value in values.items():
        apply_override(document, path, value, {(): f"{path}={dump_inline(value)}"}, Path())
    return resolve_document(document)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return what dotted paths can be called where there is little room: ``learning_rate.start``, ``n_envs``."""
    names = [_LEADING.sub("", path).replace(".params.", ".") for path in paths]
    return names if len({*names}) == len(names) else list(paths)


def _present(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        try:
            data = data[int(key) if isinstance(data, list) else key]
        except (LookupError, TypeError, ValueError):
            return ABSENT
    return data


def _is_whole(one: Searched, dotted: str, present: Any, base: RunConfig) -> bool:
    """Say whether a range is of whole numbers: by what the config takes there or, if it takes anything, as written."""
    numbers = [number for number in (one.low, one.high, one.step) if number is not None]
    if one.low is None or any(number % 1 for number in numbers):
        return False

    def fits(value: Any) -> bool:
        return not _problems_with(dotted, value, base, {(): dotted})

    if not fits(one.low + 0.5):
        return True
    return fits("") and all(isinstance(number, int) for number in numbers) and not isinstance(present, float)


def _overlaps(dimension: Dimension, space: Sequence[Dimension]) -> Iterator[Problem]:
    paths = [one.path for one in space]
    place = paths.index(dimension.path)
    for index, other in enumerate(paths):
        if dimension.path.startswith(f"{other}."):
            message = f"lies within {other}, which is searched for as well"
            yield Problem(("search", dimension.path), message, "search for one of them")
        elif index > place and shadows(other, dimension.path):
            message = f"is dropped by {other}, which is laid over it"
            yield Problem(("search", dimension.path), message, "write the name before its params")


def _own_problems(dimension: Dimension) -> Iterator[Problem]:
    """Say what is wrong with a range or choices as such."""
    one, path = dimension.searched, ("search", dimension.path)
    if dimension.path in _NOT_SEARCHED:
        yield Problem(path, f"cannot be searched for: {_NOT_SEARCHED[dimension.path]}")
    if one.choices is not None:
        if besides := [key for key in ("low", "high", "step") if getattr(one, key) is not None] + ["log"] * one.log:
            yield Problem(path, f"has choices, and {', '.join(besides)} besides", "give one or the other")
        elif not one.choices:
            yield Problem((*path, "choices"), "is empty")
        elif any(label in dimension.labels[:index] for index, label in enumerate(dimension.labels)):
            yield Problem((*path, "choices"), "has a value more than once")
        elif nan := [place for place, value in walk([*one.choices]) if isinstance(value, float) and math.isnan(value)]:
            yield Problem((*path, "choices", *nan[0]), "cannot be searched for: nan is not equal to itself")
    else:
        yield from _range_problems(one, path)


def _range_problems(one: Searched, path: KeyPath) -> Iterator[Problem]:
    if one.low is None or one.high is None:
        yield Problem(path, "needs low and high, or choices")
    elif one.low >= one.high:
        yield Problem((*path, "low"), f"should be below high, which is {one.high!r}, not {one.low!r}")
    elif one.log and one.low <= 0:
        yield Problem((*path, "low"), f"should be above 0 on a logarithmic scale, not {one.low!r}")
    elif one.log and one.step is not None:
        yield Problem((*path, "step"), "does not go with log")
    elif one.step is not None:
        low, high, step = (Fraction(str(number)) for number in (one.low, one.high, one.step))
        if not 0 < step <= high - low:
            yield Problem((*path, "step"), f"should be above 0 and at most high - low, not {one.step!r}")
        elif rest := (high - low) % step:
            ends = " or ".join(f"{float(end):.15g}" for end in (high - rest, high - rest + step))
            yield Problem((*path, "high"), f"should be a whole number of steps above low, {ends}, not {one.high!r}")


def _unfit_values(dimension: Dimension, base: RunConfig, document: Document) -> list[Problem]:
    """Try a range's ends and first step, or every choice; what is wrong with all of them is said once."""
    one, path = dimension.searched, ("search", dimension.path)
    tried: dict[KeyPath, Any] = {("choices", index): value for index, value in enumerate(one.choices or ())}
    tried = tried or {("low",): one.low, ("high",): one.high}
    if one.step is not None:
        tried["step",] = (one.low or 0) + one.step
    found: dict[tuple[str, str], list[KeyPath]] = {}
    for key, value in tried.items():
        for problem in _problems_with(dimension.path, value, base, get_locations(document, (*path, *key))):
            found.setdefault((problem.message, problem.hint), []).append(key)
    return [
        Problem((*path, *key), message, hint)
        for (message, hint), keys in found.items()
        for key in ([()] if len(keys) == len(tried) else keys)
    ]


def _problems_with(dotted: str, value: Any, base: RunConfig, places: Mapping[KeyPath, str]) -> list[Problem]:
    document = base.to_document()
    path: KeyPath = ()
    try:
        path = apply_override(document, dotted, value, places, Path())
        resolve_document(document)
    except ConfigError as error:
        return [_said_here(problem, path) for problem in error.problems]
    return []


def _said_here(problem: Problem, path: KeyPath) -> Problem:
    """Name the value in the config that a problem is about, if it is not at ``path``, nor in it."""
    where = "" if problem.path[: len(path)] == path else f"{'.'.join(map(str, problem.path))}: "
    return Problem(problem.path, where + problem.message, problem.hint)
