"""Variants of a base config, and the runs they are trained in: each with its config, and its directory's name."""

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
from toolkit.config.compose import apply_override
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.schema import Params
from toolkit.config.validation import in_order
from toolkit.config.yaml_document import Document, locations_under
from toolkit.utils.errors import ConfigError, KeyPath, Problem
from toolkit.utils.text import abbreviate

Grid = Mapping[str, Sequence[Any]]
_MOST_BYTES = 255  # of a directory's name
_LONGEST_VALUE = 40  # characters of a value in a directory's name
_RESERVED = {  # what else is in an experiment's directory
    "experiment.yaml": "the experiment file is called so there",
    "report": "that is where `toolkit report` writes",
}


@dataclass(frozen=True)
class Variant:
    """One way to train, with any seed.

    :param laid: the places in the config that the experiment file lays values over, with where it has them
    """

    name: str
    config: ResolvedConfig
    laid: tuple[tuple[KeyPath, KeyPath], ...]


@dataclass(frozen=True)
class PlannedRun:
    """A variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Its directory in the experiment's."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def config(self) -> ResolvedConfig:
        """Its config."""
        return self.variant.config.with_seed(self.seed)


@dataclass
class Findings:
    """What is wrong with variants: each problem once, where the experiment file or the base has it.

    :param variants: how many there are
    """

    document: Document
    base: Document
    variants: int
    _found: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, variant: str, laid: Sequence[tuple[KeyPath, KeyPath]], problems: Sequence[Problem]) -> None:
        """Note what is wrong with a variant."""
        for problem in problems:
            here = Problem(_origin(laid, problem.path), problem.message, problem.hint)
            self._found.setdefault(here, []).append(variant)

    def refuse(self, others: Sequence[Problem] = ()) -> None:
        """Report what has been found.

        :param others: what is wrong with the experiment file besides
        :raises ConfigError: if there is something
        """
        found = [self._told(*one) for one in self._found.items()]
        if found or others:
            at = self.document.locations
            places = self.base.locations | {path: line for path, line in at.items() if path[:1] in _OWN}
            places |= {one.path: at[one.nearest(at) or ()] for one in others}
            raise ConfigError(in_order([*others, *found], places), places)

    def _told(self, problem: Problem, variants: Sequence[str]) -> Problem:
        """Say which variants a problem of the base has, if not all."""
        if len(variants) == self.variants or problem.path[:1] in _OWN:
            return problem
        return Problem(problem.path, f"{problem.message} (in {', '.join(abbreviate(variants, 3))})", problem.hint)


_OWN: tuple[KeyPath, ...] = (("variants",), ("grid",))


def _origin(laid: Sequence[tuple[KeyPath, KeyPath]], path: KeyPath) -> KeyPath:
    """Return where the experiment file has what is at a path of a config, or something in there; or else the path."""
    around = (origin + path[len(place) :] for place, origin in reversed(laid) if path[: len(place)] == place)
    within = (origin for place, origin in reversed(laid) if path and place[: len(path)] == path)
    return next(itertools.chain(around, within), path)


def make_variants(
    given: Mapping[str, Params], grid: Grid, document: Document, base: Document, directory: Path
) -> tuple[list[Variant], Findings]:
    """Make each variant's config, with every combination of the grid's values.

    :param given: values by dotted path, by the variant's name
    :param document: the experiment file
    :param directory: the one that it is in
    :return: the variants that are right, and what is wrong with the others
    """
    labels = grid_labels(grid)
    combinations = [*itertools.product(*(range(len(values)) for values in grid.values()))]
    findings = Findings(document, base, len(given) * len(combinations))
    made = []
    for (name, values), chosen in itertools.product(given.items(), combinations):
        picked = [*zip(grid, chosen, strict=True)]
        full_name = ",".join([name, *(labels[dotted][index] for dotted, index in picked)])
        own = Document(deepcopy(base.data), dict(base.locations))
        laid: list[tuple[KeyPath, KeyPath]] = []
        origins: list[KeyPath] = [("variants", name, dotted) for dotted in values]
        try:
            for origin in [*origins, *(("grid", *one) for one in picked)]:
                laid.append((_lay_over(own, document, origin, directory), origin))
            made.append(Variant(full_name, resolve_document(own), tuple(laid)))
        except ConfigError as error:
            findings.add(full_name, laid, error.problems)
    return made, findings


def _lay_over(own: Document, document: Document, origin: KeyPath, directory: Path) -> KeyPath:
    """Lay a value of the experiment file over a config; return its path there.

    :raises ConfigError: if it does not fit, of the path in the experiment file
    """
    dotted = str(origin[2] if origin[0] == "variants" else origin[1])
    try:
        return apply_override(
            own, dotted, yaml_document.value_at(document.data, origin), locations_under(document, origin), directory
        )
    except ConfigError as error:
        raise ConfigError([Problem(origin, one.message, one.hint) for one in error.problems]) from None


def name_problems(variants: Sequence[Variant], named: KeyPath) -> Iterator[Problem]:
    """Say which variants' directories cannot be made side by side.

    :param named: where the experiment file names them
    """
    first: dict[str, str] = {}
    for name in (variant.name for variant in variants):
        path = (*named, name.partition(",")[0]) if named == ("variants",) else named
        if name.casefold() in _RESERVED:
            yield Problem(path, f"'{name}' cannot be a variant's directory", _RESERVED[name.casefold()])
        if len(os.fsencode(name)) > _MOST_BYTES:
            message = f"makes a directory's name of more than {_MOST_BYTES} bytes: {name}"
            yield Problem(path, message, "use a shorter name, or fewer values in the grid")
        if (other := first.setdefault(name.casefold(), name)) != name:
            yield Problem(path, f"differs from '{other}' in capitals alone, which some file systems do not tell apart")


def grid_labels(grid: Grid) -> dict[str, list[str]]:
    """Return what each value of the grid is called in a directory's name, as ``gamma=0.95``."""
    last = Counter(dotted.rpartition(".")[2] for dotted in grid)
    labels = {}
    for dotted, values in grid.items():
        key = dotted.rpartition(".")[2]
        key = dotted if last[key] > 1 or key.isdecimal() else key
        texts = [_text(value) for value in values]
        if len({text.casefold() for text in texts}) < len(texts):
            texts = [f"{text}-{index}" for index, text in enumerate(texts)]
        labels[dotted] = [f"{_plain(key)}={text}" for text in texts]
    return labels


def _text(value: Any) -> str:
    """Return a value as a part of a directory's name."""
    if isinstance(value, dict) and "name" in value:
        return _text(value["name"])  # a component
    if isinstance(value, dict):
        return _plain(json.dumps(value)).strip("-") or "none"
    if isinstance(value, list):
        return "-".join(map(_text, value))[:_LONGEST_VALUE] or "none"
    text = value.rpartition(":")[2] if isinstance(value, str) else json.dumps(value)
    return _plain(text) or "none"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)[:_LONGEST_VALUE]
