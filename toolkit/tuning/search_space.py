"""A search space: values of a config by dotted path, each in a range or among choices."""

from __future__ import annotations

import itertools
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
from toolkit.experiments.variants import Variant, name_variants
from toolkit.training.checks import find_config_warnings
from toolkit.utils.errors import ConfigError, KeyPath, Problem

MISSING = object()
"""The base value of a dimension that the base does not set; ``None`` is a value that it sets."""
_PREFIX = re.compile(r"^(algorithm|env)\.((policy_)?params\.)?")
_NOT_SEARCHABLE = {
    "timesteps": "trials are compared at equal timesteps",
    "seed": "the tuning file's 'seeds' sets it",
    "name": "it changes nothing",
}


def _check_number(value: Any) -> Any:
    if isinstance(value, bool | str) or (isinstance(value, int | float) and not abs(value) <= sys.float_info.max):
        raise ValueError("Input should be a number")
    return value


Number = Annotated[int | float, BeforeValidator(_check_number)]


class SearchDomain(StrictModel):
    """Where a value is searched: in a range, or among choices."""

    low: Number | None = None
    """The smallest value."""
    high: Number | None = None
    """The largest value, inclusive."""
    log: bool = False
    """Sample on a logarithmic scale."""
    step: Number | None = None
    """Distance between neighbouring values. `low` and `high` are two of them."""
    choices: tuple[Any, ...] | None = None
    """The values to choose from. Lists and components are allowed."""


@dataclass(frozen=True)
class Dimension:
    """A value that is searched.

    :param path: its dotted path in the config
    :param base_value: its value in the base; :data:`MISSING` if the base does not set it
    :param is_integer: whether only whole numbers are searched
    """

    path: str
    domain: SearchDomain
    base_value: Any
    is_integer: bool

    @property
    def choice_labels(self) -> list[Any]:
        """The choices as a database can hold them: one that is no scalar is a line of YAML."""
        scalar = str | int | float | None
        return [choice if isinstance(choice, scalar) else dump_inline(choice) for choice in self.domain.choices or ()]

    def contains(self, value: Any) -> bool:
        """Return whether a value belongs to the domain."""
        domain = self.domain
        if domain.choices is not None:
            return value in domain.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or domain.low is None:
            return False
        n_steps = (value - domain.low) / (domain.step or 1)
        has_steps = domain.step is not None or self.is_integer
        is_on_step = not has_steps or math.isclose(n_steps, round(n_steps), abs_tol=1e-9)
        return domain.low <= value <= (domain.high or 0) and is_on_step


def make_space(
    search: Mapping[str, SearchDomain], base: RunConfig, variants: Sequence[Variant]
) -> tuple[Dimension, ...]:
    """Return the dimensions of a search, with the values of the base.

    :param variants: the configs to search in; a range holds whole numbers only if one of them needs that
    """
    data = base.to_document().data
    dimensions = []
    for path, domain in search.items():
        value = _get_value(data, path)
        is_integer = any(_is_integer(domain, path, value, variant.config) for variant in variants)
        dimensions.append(Dimension(path, domain, value, is_integer))
    return tuple(dimensions)


def find_space_problems(
    space: Sequence[Dimension], variants: Sequence[Variant], document: Document
) -> Iterator[Problem]:
    """Find the problems of a search space. The ends of each range and every choice are tried in each variant.

    :param document: the file that holds the space under ``search``
    """
    for dimension in space:
        own_problems = [*_find_domain_problems(dimension), *_find_overlaps(dimension, space)]
        yield from own_problems or _find_unfit_values(dimension, variants, document)


def override_config(base: RunConfig, values: Mapping[str, Any]) -> ResolvedConfig:
    """Return a config with other values, given by dotted path.

    :raises ConfigError: if the config is invalid with them
    """
    document = base.to_document()
    for path, value in values.items():
        apply_override(document, path, value, {(): f"{path}={dump_inline(value)}"}, Path())
    return resolve_document(document)


def shorten_paths(paths: Sequence[str]) -> list[str]:
    """Return short names for dotted paths, as ``learning_rate.start`` or ``n_envs``."""
    names = [_PREFIX.sub("", path).replace(".params.", ".") for path in paths]
    return names if len({*names}) == len(names) else list(paths)


def _get_value(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        try:
            data = data[int(key) if isinstance(data, list) else key]
        except (LookupError, TypeError, ValueError):
            return MISSING
    return data


def _is_integer(domain: SearchDomain, dotted: str, base_value: Any, base: RunConfig) -> bool:
    """Return whether a range holds whole numbers only: by the type of the parameter or, if it has none, as written."""
    numbers = [number for number in (domain.low, domain.high, domain.step) if number is not None]
    if domain.low is None or any(number % 1 for number in numbers):
        return False

    def fits(value: Any) -> bool:
        return not _try_value(dotted, value, base, {(): dotted})

    if not fits(domain.low + 0.5):
        return True
    return fits("") and all(isinstance(number, int) for number in numbers) and not isinstance(base_value, float)


def _find_overlaps(dimension: Dimension, space: Sequence[Dimension]) -> Iterator[Problem]:
    """Find other dimensions that contain a dimension, or replace it."""
    paths = [other.path for other in space]
    position = paths.index(dimension.path)
    for index, other in enumerate(paths):
        if dimension.path.startswith(f"{other}."):
            message = f"is a part of {other}, which is searched, too"
            yield Problem(("search", dimension.path), message, "search one of them")
        elif index > position and shadows(other, dimension.path):
            message = f"is replaced by {other}, which comes later"
            yield Problem(("search", dimension.path), message, "write the name before its params")


def _find_domain_problems(dimension: Dimension) -> Iterator[Problem]:
    """Find the problems of a domain that do not depend on the base."""
    path = ("search", dimension.path)
    if dimension.path in _NOT_SEARCHABLE:
        yield Problem(path, f"cannot be searched: {_NOT_SEARCHABLE[dimension.path]}")
    if dimension.domain.choices is not None:
        yield from _find_choice_problems(dimension, dimension.domain.choices, path)
    else:
        yield from _find_range_problems(dimension.domain, path)


def _find_choice_problems(dimension: Dimension, choices: Sequence[Any], path: KeyPath) -> Iterator[Problem]:
    domain, labels = dimension.domain, dimension.choice_labels
    range_keys = [key for key in ("low", "high", "step") if getattr(domain, key) is not None] + ["log"] * domain.log
    nan_paths = [key for key, value in walk([*choices]) if isinstance(value, float) and math.isnan(value)]
    if range_keys:
        yield Problem(path, f"has choices and {', '.join(range_keys)}", "give one or the other")
    elif not choices:
        yield Problem((*path, "choices"), "is empty")
    elif any(label in labels[:index] for index, label in enumerate(labels)):
        yield Problem((*path, "choices"), "a value appears more than once")
    elif nan_paths:
        yield Problem((*path, "choices", *nan_paths[0]), "cannot be searched: nan is not equal to itself")


def _find_range_problems(domain: SearchDomain, path: KeyPath) -> Iterator[Problem]:
    low, high, step = domain.low, domain.high, domain.step
    if low is None or high is None:
        yield Problem(path, "needs low and high, or choices")
    elif low >= high:
        yield Problem((*path, "low"), f"should be below high, which is {high!r}, not {low!r}")
    elif domain.log and low <= 0:
        yield Problem((*path, "low"), f"should be above 0 on a logarithmic scale, not {low!r}")
    elif domain.log and step is not None:
        yield Problem((*path, "step"), "cannot be combined with log")
    elif step is not None:
        yield from _find_step_problems(low, high, step, path)


def _find_step_problems(low: float, high: float, step: float, path: KeyPath) -> Iterator[Problem]:
    exact_low, exact_high, exact_step = (Fraction(str(number)) for number in (low, high, step))
    if not 0 < exact_step <= exact_high - exact_low:
        yield Problem((*path, "step"), f"should be above 0 and at most high - low, not {step!r}")
    elif rest := (exact_high - exact_low) % exact_step:
        ends = " or ".join(f"{float(end):.15g}" for end in (exact_high - rest, exact_high - rest + exact_step))
        yield Problem((*path, "high"), f"should be a whole number of steps above low, {ends}, not {high!r}")


def find_space_warnings(space: Sequence[Dimension], variants: Sequence[Variant]) -> Iterator[Problem]:
    """Find what training would ignore with a value of the space, but not in the variant itself; each once.

    :return: problems under ``search``, at the first value that has them
    """
    names: dict[Problem, list[str]] = {}
    for variant in variants:
        for problem in _find_new_warnings(space, variant.config):
            names.setdefault(problem, []).append(variant.name)
    for problem, names_with_problem in names.items():
        yield name_variants(problem, names_with_problem, len(variants))


def _find_new_warnings(space: Sequence[Dimension], base: ResolvedConfig) -> Iterator[Problem]:
    known = {problem.path for problem in find_config_warnings(base)}
    for dimension in space:
        found = set(known)
        for key, value in _list_tried_values(dimension.domain).items():
            for problem in find_config_warnings(override_config(base, {dimension.path: value})):
                if problem.path not in found:
                    found.add(problem.path)
                    dotted = ".".join(map(str, problem.path))
                    prefix = "" if f"{dotted}.".startswith(f"{dimension.path}.") else f"{dotted}: "
                    yield Problem(("search", dimension.path, *key), prefix + problem.message, problem.hint)


def _list_tried_values(domain: SearchDomain) -> dict[KeyPath, Any]:
    """Return every choice, or the ends of a range and its first step, each by its path in the domain."""
    values: dict[KeyPath, Any] = {("choices", index): value for index, value in enumerate(domain.choices or ())}
    values = values or {("low",): domain.low, ("high",): domain.high}
    if domain.step is not None:
        values["step",] = (domain.low or 0) + domain.step
    return values


def _find_unfit_values(dimension: Dimension, variants: Sequence[Variant], document: Document) -> Iterator[Problem]:
    """Try a range's ends and first step, or every choice, in each variant. What all have is reported once."""
    path, values = ("search", dimension.path), _list_tried_values(dimension.domain)
    names: dict[tuple[str, str], dict[KeyPath, list[str]]] = {}
    for variant, (key, value) in itertools.product(variants, values.items()):
        locations = get_locations(document, (*path, *key))
        for problem in _try_value(dimension.path, value, variant.config, locations):
            names.setdefault((problem.message, problem.hint), {}).setdefault(key, []).append(variant.name)
    for (message, hint), names_by_key in names.items():
        is_everywhere = len(names_by_key) == len(values) and len({*map(tuple, names_by_key.values())}) == 1
        for key in [*names_by_key][:1] if is_everywhere else names_by_key:
            problem = Problem((*path, *(() if is_everywhere else key)), message, hint)
            yield name_variants(problem, names_by_key[key], len(variants))


def _try_value(dotted: str, value: Any, base: RunConfig, locations: Mapping[KeyPath, str]) -> list[Problem]:
    """Return the problems of the base with another value."""
    document = base.to_document()
    path: KeyPath = ()
    try:
        path = apply_override(document, dotted, value, locations, Path())
        resolve_document(document)
    except ConfigError as error:
        return [_name_path(problem, path) for problem in error.problems]
    return []


def _name_path(problem: Problem, path: KeyPath) -> Problem:
    """Put the path of a problem into its message, unless it is at ``path`` or inside."""
    prefix = "" if problem.path[: len(path)] == path else f"{'.'.join(map(str, problem.path))}: "
    return Problem(problem.path, prefix + problem.message, problem.hint)
