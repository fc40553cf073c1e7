"""Variants of a base config and their runs: the config of each run and the name of its directory."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.config import yaml_document
from toolkit.config.compose import apply_override, shadows
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.schema import Params
from toolkit.config.validation import sort_problems
from toolkit.config.values import is_per_env, names_code, read_code_value
from toolkit.config.yaml_document import Document, get_locations
from toolkit.utils.data import iterate_leaves
from toolkit.utils.errors import ConfigError, KeyPath, Problem
from toolkit.utils.log import log_problems
from toolkit.utils.text import abbreviate

Grid = Mapping[str, Sequence[Any]]
_MAX_NAME_BYTES = 255  # of a directory, in common file systems
_MAX_VALUE_LENGTH = 40  # characters of a value in the name of a directory
_MAX_VARIANTS_NAMED = 3
RESERVED_NAMES = {
    "experiment.yaml": "the experiment file has this name",
    "report": "`toolkit report` writes there",
}


@dataclass(frozen=True)
class VariantOverride:
    """A value of the experiment file that replaces one of the base config.

    :param path: its path in the config
    :param origin: its path in the experiment file
    """

    path: KeyPath
    origin: KeyPath


@dataclass(frozen=True)
class Variant:
    """A config to train with several seeds.

    :param overrides: how the config differs from the base, in the order of application
    """

    name: str
    config: ResolvedConfig
    overrides: tuple[VariantOverride, ...]


@dataclass(frozen=True)
class PlannedRun:
    """A variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Path of the run directory in the directory of the experiment."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def config(self) -> ResolvedConfig:
        """Config of the run."""
        return self.variant.config.with_seed(self.seed)


@dataclass
class VariantProblems:
    """Problems of the variants' configs, each once, at its place in the experiment file or the base.

    :param n_variants: number of all variants
    """

    document: Document
    base: Document
    n_variants: int
    _variants: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, variant: str, overrides: Sequence[VariantOverride], problems: Sequence[Problem]) -> None:
        """Add the problems of a variant's config."""
        for problem in problems:
            moved = Problem(_find_origin(overrides, problem.path), problem.message, problem.hint)
            self._variants.setdefault(moved, []).append(variant)

    def copy_empty(self) -> VariantProblems:
        """Return a collection without problems, for the same variants."""
        return VariantProblems(self.document, self.base, self.n_variants)

    def raise_if_any(self, others: Sequence[Problem] = ()) -> None:
        """Raise all problems as one error.

        :param others: further problems of the experiment file
        :raises ConfigError: if there is a problem
        """
        if error := self._make_error(others):
            raise error

    def log(self) -> None:
        """Log all problems as warnings, each in one line."""
        if error := self._make_error():
            log_problems(error)

    def _make_error(self, others: Sequence[Problem] = ()) -> ConfigError | None:
        problems = [*others, *(self._name_variants(*item) for item in self._variants.items())]
        if not problems:
            return None
        locations = self.document.locations
        all_lines = self.base.locations | {path: line for path, line in locations.items() if _is_in_experiment(path)}
        all_lines |= {problem.path: locations[problem.nearest(locations) or ()] for problem in others}
        return ConfigError(sort_problems(problems, all_lines), all_lines)

    def _name_variants(self, problem: Problem, variants: Sequence[str]) -> Problem:
        """Name the variants that have a problem of the base, unless all have it."""
        return problem if _is_in_experiment(problem.path) else name_variants(problem, variants, self.n_variants)


def name_variants(problem: Problem, variants: Sequence[str], n_variants: int) -> Problem:
    """Add the names of the variants that have a problem to its message, unless all have it."""
    if len(variants) == n_variants:
        return problem
    names = ", ".join(abbreviate(variants, _MAX_VARIANTS_NAMED))
    return Problem(problem.path, f"{problem.message} (in {names})", problem.hint)


def _is_in_experiment(path: KeyPath) -> bool:
    """Return whether a path is one of the experiment file, not of the base."""
    return path[:1] in (("variants",), ("grid",))


def _find_origin(overrides: Sequence[VariantOverride], path: KeyPath) -> KeyPath:
    """Return where the experiment file has the value at a path of a config, or a part of it; else the path itself."""
    latest_first = overrides[::-1]
    for override in latest_first:
        if path[: len(override.path)] == override.path:
            return override.origin + path[len(override.path) :]
    for override in latest_first:
        if path and override.path[: len(path)] == path:
            return override.origin
    return path


def make_variants(
    values_by_variant: Mapping[str, Params], grid: Grid, document: Document, base: Document, directory: Path
) -> tuple[list[Variant], VariantProblems]:
    """Make the config of each variant with each combination of the grid's values.

    :param values_by_variant: values by dotted path, by the name of the variant
    :param document: the experiment file
    :param directory: the directory of the experiment file
    :return: the valid variants, and the problems of the others
    """
    labels = grid_labels(grid)
    combinations = [*itertools.product(*(range(len(values)) for values in grid.values()))]
    problems = VariantProblems(document, base, len(values_by_variant) * len(combinations))
    variants = []
    for (name, values), indices in itertools.product(values_by_variant.items(), combinations):
        choices = [*zip(grid, indices, strict=True)]
        full_name = ",".join([name, *(labels[dotted][index] for dotted, index in choices)])
        config = Document(deepcopy(base.data), dict(base.locations))
        origins: list[KeyPath] = [("variants", name, dotted) for dotted in values]
        origins += [("grid", dotted, index) for dotted, index in choices]
        overrides: list[VariantOverride] = []
        try:
            for origin in origins:
                overrides.append(_apply(config, document, origin, directory))
            variants.append(Variant(full_name, resolve_document(config), tuple(overrides)))
        except ConfigError as error:
            problems.add(full_name, overrides, error.problems)
    return variants, problems


def _apply(config: Document, document: Document, origin: KeyPath, directory: Path) -> VariantOverride:
    """Put a value of the experiment file into a config.

    :raises ConfigError: if it does not fit there, at its path in the experiment file
    """
    dotted = str(origin[2] if origin[0] == "variants" else origin[1])
    value = yaml_document.get_value(document.data, origin)
    try:
        path = apply_override(config, dotted, value, get_locations(document, origin), directory)
    except ConfigError as error:
        raise ConfigError([Problem(origin, problem.message, problem.hint) for problem in error.problems]) from None
    return VariantOverride(path, origin)


def find_bad_names(names: Mapping[str, Any]) -> Iterator[Problem]:
    """Find names of variants that cannot be the name of a directory.

    :param names: the variants by name
    """
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
            hint = "use at most 100 letters, digits and _ . + -, and start with a letter, digit or _"
            yield Problem(("variants", name), "cannot be a variant's directory", hint)


def find_misplaced_overrides(variants: Mapping[str, Params], later_paths: Sequence[KeyPath]) -> Iterator[Problem]:
    """Find overrides that set the seed, or that a later override of the same run replaces.

    :param variants: values by dotted path, by the name of the variant
    :param later_paths: of the overrides that follow those of every variant, in the order of application
    """
    variant_paths = [[("variants", name, dotted) for dotted in values] for name, values in variants.items()]
    for path in [*itertools.chain(*variant_paths), *later_paths]:
        if str(path[-1]).partition(".")[0] == "seed":
            yield Problem(path, "the key 'seeds' sets it", "remove it here")
    for paths in variant_paths or [[]]:
        yield from _find_shadowed([*paths, *later_paths])


def _find_shadowed(paths: Sequence[KeyPath]) -> Iterator[Problem]:
    """Find overrides that a later one replaces, as `env` replaces `env.n_envs`, or a name the params of a component.

    :param paths: of the overrides in their file, in the order of application
    """
    for index, path in enumerate(paths):
        for later in paths[index + 1 :]:
            if shadows(str(later[-1]), str(path[-1])):
                owner = "the variant's" if later[0] == "variants" else f"the {later[0]}'s"
                contains_path = f"{path[-1]}.".startswith(f"{later[-1]}.")
                hint = "give only one of them" if contains_path else "write the name first, or both as one value"
                yield Problem(path, f"{owner} {later[-1]} replaces it", hint)


def find_name_problems(names: Sequence[str], origin: KeyPath, reserved: Mapping[str, str]) -> Iterator[Problem]:
    """Find variants whose directories cannot be made beside the others.

    :param names: the names of all variants
    :param origin: where their file names them
    :param reserved: why a name is taken, by the lower-case name
    """
    first_names: dict[str, str] = {}
    for name in names:
        path = (*origin, name.partition(",")[0]) if origin == ("variants",) else origin
        folded = name.casefold()
        if folded in reserved:
            yield Problem(path, f"'{name}' cannot be a variant's directory", reserved[folded])
        if len(os.fsencode(name)) > _MAX_NAME_BYTES:
            message = f"the directory's name is longer than {_MAX_NAME_BYTES} bytes: {name}"
            yield Problem(path, message, "use a shorter name, or fewer values in the grid")
        if (first_name := first_names.setdefault(folded, name)) != name:
            message = f"differs from '{first_name}' only in upper and lower case"
            yield Problem(path, message, "rename one, as some file systems ignore case")


def grid_labels(grid: Grid) -> dict[str, list[str]]:
    """Return the label of each value of a grid in the name of a directory, as ``gamma=0.95``."""
    last_keys = Counter(dotted.rpartition(".")[2] for dotted in grid)
    labels = {}
    for dotted, values in grid.items():
        key = dotted.rpartition(".")[2]
        key = dotted if last_keys[key] > 1 or key.isdecimal() else key
        texts = [_format_value(value) for value in values]
        if _has_equal(texts) and any(map(_describes_code, values)):
            texts = _format_differences(values)
        if _has_equal(texts):
            texts = [f"{text}-{index}" for index, text in enumerate(texts)]
        labels[dotted] = [f"{_sanitize(key)}={text}" for text in texts]
    return labels


def _has_equal(texts: Sequence[str]) -> bool:
    """Return whether two texts are the same in a file system that ignores case."""
    return len({text.casefold() for text in texts}) < len(texts)


def _describes_code(value: Any) -> bool:
    """Return whether a value has a function, a call, or values for each environment."""
    return any(names_code(inner) or is_per_env(inner) for _, inner in yaml_document.walk(value))


def _format_differences(values: Sequence[Any]) -> list[str]:
    """Return of each value what is not the same in all of them, with the last key of each part."""
    leaves = [dict(iterate_leaves(value)) for value in values]
    same = {path for path, part in leaves[0].items() if all(others.get(path, others) == part for others in leaves)}
    texts = [
        "-".join(f"{_format_key(path)}{_format_value(part)}" for path, part in parts.items() if path not in same)
        for parts in leaves
    ]
    return [text[:_MAX_VALUE_LENGTH] or "none" for text in texts]


def _format_key(path: KeyPath) -> str:
    """Return the name of a part of a value; an item of a list has none."""
    return f"{_sanitize(str(path[-1]))}-" if path and isinstance(path[-1], str) else ""


def _format_value(value: Any) -> str:
    """Return a value as a part of a directory's name."""
    if isinstance(value, dict) and "name" in value:
        return _format_value(value["name"])  # a component
    if code := read_code_value(value, True):
        return _sanitize(f"{_format_value(code.reference)} {json.dumps(code.params)}").strip("-")
    if isinstance(value, dict):
        return _sanitize(json.dumps(value)).strip("-") or "none"
    if isinstance(value, list):
        return "-".join(map(_format_value, value))[:_MAX_VALUE_LENGTH] or "none"
    text = value.rpartition(":")[2] if isinstance(value, str) else json.dumps(value)
    return _sanitize(text) or "none"


def _sanitize(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)[:_MAX_VALUE_LENGTH]
