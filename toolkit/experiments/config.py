"""The experiment file: which runs it stands for; all of it checked before anything starts."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from toolkit.config import yaml_document
from toolkit.config.components import bind_component
from toolkit.config.compose import override, read, shadows
from toolkit.config.load import resolve_document
from toolkit.config.registry import KINDS
from toolkit.config.schema import Component, ComponentConfig, Params, RunConfig
from toolkit.config.validation import Count, Part, Seeds, check, in_order
from toolkit.config.yaml_document import Document, locations_under
from toolkit.experiments.launcher import Launcher
from toolkit.experiments.variants import Findings, PlannedRun, Variant, make_variants, name_problems
from toolkit.utils.errors import ConfigError, KeyPath, Problem, ToolkitError

MOST_RUNS = 1_000  # that are started without a question


def _file_or_config(value: Any) -> Any:
    if not isinstance(value, str | dict) or not value:
        raise ValueError("Input should be the path of a config, or a config itself")
    return value


class ExperimentConfig(Part):
    """An experiment, whole."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of its directory; left out, the stem of the file."""
    base: Annotated[Any, BeforeValidator(_file_or_config, json_schema_input_type=str | RunConfig)]
    """The config that all runs share: a file, relative to this one, or the config itself."""
    variants: Annotated[dict[str, Params], Field(min_length=1)] | None = None
    """What each variant changes: values by dotted path in the config, by the variant's name."""
    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)] | None = None
    """Values by dotted path, of which every combination is tried with every variant."""
    seeds: Seeds
    """Each variant is trained with each of these; a number means as many, from 0."""
    evaluation_episodes: Annotated[Count, Field(le=1_000_000)] = 100
    """Greedy episodes that are played with each trained model."""
    launcher: Component = ComponentConfig(name="local")
    """Where the runs are trained: see `toolkit plugins launchers`."""


@dataclass(frozen=True)
class Plan:
    """An experiment file that has been checked.

    :param launcher: a :class:`toolkit.Launcher` that is ready
    :param text: the file, resolved and with its base in it: an experiment file that stands for the same runs
    :param findings: takes what is found wrong with variants later on
    """

    file: Path
    name: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    evaluation_episodes: int
    launcher: Launcher
    text: str
    findings: Findings

    def runs(self) -> list[PlannedRun]:
        """Return all runs: every variant with the first seed, then with the second, so that they can be compared."""
        return [PlannedRun(variant, seed) for seed in self.seeds for variant in self.variants]


def load_plan(file: Path, overrides: Sequence[str] | Mapping[str, Any] = (), yes: bool = False) -> Plan:
    """Read an experiment file and check all of it, each variant's config included; its launcher gets ready meanwhile.

    :param overrides: values to lay over the experiment file, as :func:`toolkit.load_config` takes them
    :param yes: whether it may stand for more than a thousand runs
    :raises ConfigError: with every problem found, each as ``FILE:LINE: dotted.path: what is wrong``
    :raises ToolkitError: if it stands for so many runs, or there is nowhere to run them
    """
    document = read(file)
    override(document, overrides)

    def report(found: Sequence[Problem]) -> ConfigError:
        return ConfigError(in_order(found, document.locations), document.locations)

    config, problems = check(ExperimentConfig, document, "write at least base and seeds", {"seeds": 1})
    if config is None:
        raise report(problems)
    named = bind_component(report, KINDS["launchers"], config.launcher, ("launcher",), problems)
    problems += _own_problems(config)
    base = _base(config, document, file, problems)
    if base is None or (problems and _size(config) > MOST_RUNS):
        raise report(problems)
    _refuse_so_many(config, file, yes)
    launcher: Any = None if named is None or problems else named.build()  # None: refused below
    if launcher is not None:
        launcher.prepare()
    given = config.variants or {str(base.data["name"]): {}}
    variants, findings = make_variants(given, config.grid or {}, document, base, file.resolve().parent)
    findings.refuse([*problems, *name_problems(variants, ("variants",) if config.variants else ("base",))])
    text = yaml_document.dump(config.model_dump(mode="json", exclude_none=True) | {"base": base.data})
    return Plan(file, config.name, variants, config.seeds, config.evaluation_episodes, launcher, text, findings)


def _refuse_so_many(config: ExperimentConfig, file: Path, yes: bool) -> None:
    if _size(config) > MOST_RUNS and not yes:
        raise ToolkitError(f"{file}: stands for {_size(config):,} runs", "--yes trains that many")


def _size(config: ExperimentConfig) -> int:
    """Count the runs without making them."""
    combinations = math.prod(map(len, (config.grid or {}).values()))
    return len(config.variants or {"": 0}) * combinations * len(config.seeds)


def _own_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Say what is wrong with a file whose shape is right, before its base is read."""
    for name in config.variants or {}:
        if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
            hint = "use at most 100 letters, digits and _ . + -, a letter, digit or _ first"
            yield Problem(("variants", name), "cannot be a variant's directory", hint)
    own = [[("variants", name, dotted) for dotted in values] for name, values in (config.variants or {}).items()]
    grid = [("grid", dotted) for dotted in config.grid or {}]
    yield from _repeated(("seeds",), [f"the seed {seed}" for seed in config.seeds])
    for dotted, values in (config.grid or {}).items():
        yield from _repeated(("grid", dotted), [json.dumps(value, sort_keys=True) for value in values])
    for path in [*itertools.chain(*own), *grid]:
        if path[-1].partition(".")[0] == "seed":
            yield Problem(path, "is given by the experiment's 'seeds'")
    for laid in own or [[]]:
        yield from _covered([*laid, *grid])


def _repeated(path: KeyPath, texts: Sequence[str]) -> Iterator[Problem]:
    """Refuse what is in a list twice."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if first.setdefault(text, index) != index:
            yield Problem((*path, index), f"{text[:100]} is given more than once")


def _covered(laid: Sequence[KeyPath]) -> Iterator[Problem]:
    """Refuse values that others leave nothing of, as a whole `env` of `env.n_envs`, and a name of what has params.

    :param laid: their paths in the experiment file, in the order in which they are laid over a config
    """
    for index, path in enumerate(laid):
        for later in laid[index + 1 :]:
            if shadows(str(later[-1]), str(path[-1])):
                what = "the grid's" if later[0] == "grid" else "the variant's"
                is_whole = f"{path[-1]}.".startswith(f"{later[-1]}.")
                hint = "give one or the other" if is_whole else "lay the name first, or both as one value"
                yield Problem(path, f"{what} {later[-1]} is laid over it", hint)


def _base(config: ExperimentConfig, document: Document, file: Path, problems: list[Problem]) -> Document | None:
    """Read the config that all runs share.

    :raises ConfigError: if it cannot be read
    """
    if isinstance(config.base, dict) and "extends" in config.base:
        problems.append(Problem(("base", "extends"), "can only be given in a file", "give that file as the base"))
        return None
    if isinstance(config.base, dict):
        base = Document(deepcopy(config.base), locations_under(document, ("base",)))
        base.data.setdefault("name", config.name)
        return base
    path = file.parent / config.base
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        problems.append(Problem(("base",), f"there is no file {path}"))
        return None
    base = read(path)
    if not isinstance(base.data, dict):
        resolve_document(base)  # which says what is wrong with it
    return base
