"""The experiment file: its schema, and the plan of its runs. All of it is checked before a run starts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from toolkit.config import yaml_document
from toolkit.config.components import BoundComponent, bind_component
from toolkit.config.compose import apply_overrides, compose_document
from toolkit.config.load import resolve_document
from toolkit.config.registry import KINDS
from toolkit.config.schema import Component, ComponentConfig, Params, RunConfig
from toolkit.config.validation import Count, Seeds, StrictModel, sort_problems, validate_document
from toolkit.config.yaml_document import Document, get_locations
from toolkit.experiments.launcher import Launcher, list_slow_imports
from toolkit.experiments.variants import (
    RESERVED_NAMES,
    PlannedRun,
    Variant,
    VariantProblems,
    find_bad_names,
    find_misplaced_overrides,
    find_name_problems,
    make_variants,
)
from toolkit.utils.errors import ConfigError, KeyPath, Problem, ToolkitError

MAX_RUNS = 1_000  # that start without --yes


def _check_base(value: Any) -> Any:
    if not isinstance(value, str | dict) or not value:
        raise ValueError("Input should be the path of a config, or a config itself")
    return value


class ExperimentConfig(StrictModel):
    """An experiment file."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of its directory. The default is the stem of the file."""
    base: Annotated[Any, BeforeValidator(_check_base, json_schema_input_type=str | RunConfig)]
    """The config that all runs share: a file, relative to this one, or the config itself."""
    variants: Annotated[dict[str, Params], Field(min_length=1)] | None = None
    """What each variant changes: values by dotted path in the config, by the variant's name."""
    grid: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)] | None = None
    """Values by dotted path. Every combination of them is trained with every variant."""
    seeds: Seeds
    """Each variant is trained with each of these seeds. A number N means the seeds 0 to N - 1."""
    evaluation_episodes: Annotated[Count, Field(le=1_000_000)] = 100
    """Greedy episodes that evaluate each trained model."""
    launcher: Component = ComponentConfig(name="local")
    """Where the runs are trained: see `toolkit plugins launchers`."""


@dataclass(frozen=True)
class ExperimentPlan:
    """A checked experiment file.

    :param launcher: a prepared :class:`toolkit.Launcher`
    :param text: the resolved file with its base inside: an experiment file that describes the same runs
    :param problems: collects problems of variants that only building shows
    """

    file: Path
    name: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    evaluation_episodes: int
    launcher: Launcher
    text: str
    problems: VariantProblems

    def runs(self) -> list[PlannedRun]:
        """Return all runs: every variant with the first seed, then with the second, so that they can be compared."""
        return [PlannedRun(variant, seed) for seed in self.seeds for variant in self.variants]


def load_plan(
    file: Path, overrides: Sequence[str] | Mapping[str, Any] = (), allow_many: bool = False
) -> ExperimentPlan:
    """Read an experiment file and check all of it, also each variant's config. The launcher prepares meanwhile.

    :param overrides: values that replace those of the file, as :func:`toolkit.load_config` takes them
    :param allow_many: allow more than 1,000 runs
    :raises ConfigError: with every problem, each as ``FILE:LINE: dotted.path: what is wrong``
    :raises ToolkitError: if the file describes too many runs, or the launcher has nowhere to run them
    """
    document = compose_document(file)
    apply_overrides(document, overrides)

    def report(problems: Sequence[Problem]) -> ConfigError:
        return ConfigError(sort_problems(problems, document.locations), document.locations)

    config, problems = validate_document(ExperimentConfig, document, "write at least base and seeds", {"seeds": 1})
    if config is None:
        raise report(problems)
    component = bind_component(report, KINDS["launchers"], config.launcher, ("launcher",), problems)
    problems += _find_problems(config)
    base = _load_base(config, document, file, problems)
    if base is None or (problems and _count_runs(config) > MAX_RUNS):
        raise report(problems)
    if not allow_many:
        _check_run_count(config, file)
    launcher: Any = None  # if there are problems, which are raised below
    if component is not None and not problems:
        launcher = _prepare_launcher(component, list_slow_imports(_list_algorithms(config, base)))
    values_by_variant = config.variants or {str(base.data["name"]): {}}
    variants, variant_problems = make_variants(
        values_by_variant, config.grid or {}, document, base, file.resolve().parent
    )
    names = [variant.name for variant in variants]
    problems += find_name_problems(names, ("variants",) if config.variants else ("base",), RESERVED_NAMES)
    variant_problems.raise_if_any(problems)
    text = yaml_document.dump(config.model_dump(mode="json", exclude_none=True) | {"base": base.data})
    return ExperimentPlan(
        file, config.name, variants, config.seeds, config.evaluation_episodes, launcher, text, variant_problems
    )


def _prepare_launcher(component: BoundComponent, slow_imports: Sequence[str]) -> Any:
    launcher = component.build()
    launcher.slow_imports = slow_imports
    launcher.prepare()
    return launcher


def _list_algorithms(config: ExperimentConfig, base: Document) -> Iterator[str]:
    """List the names of algorithms in the base and in what replaces them, before the variants are checked."""
    overrides = [item for values in (config.variants or {}).values() for item in values.items()]
    overrides += [(path, value) for path, values in (config.grid or {}).items() for value in values]
    named = [
        base.data.get("algorithm"),
        *(value for path, value in overrides if path in ("algorithm", "algorithm.name")),
    ]
    for algorithm in named:
        yield str(algorithm.get("name") if isinstance(algorithm, dict) else algorithm)


def _check_run_count(config: ExperimentConfig, file: Path) -> None:
    if (n_runs := _count_runs(config)) > MAX_RUNS:
        raise ToolkitError(f"{file}: describes {n_runs:,} runs", f"--yes allows more than {MAX_RUNS:,}")


def _count_runs(config: ExperimentConfig) -> int:
    """Count the runs without making them."""
    n_combinations = math.prod(map(len, (config.grid or {}).values()))
    return len(config.variants or {"": 0}) * n_combinations * len(config.seeds)


def _find_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """Find the problems of a file with a valid schema that show before its base is read."""
    variants, grid = config.variants or {}, config.grid or {}
    yield from find_bad_names(variants)
    yield from _find_repeated(("seeds",), [f"the seed {seed}" for seed in config.seeds])
    for dotted, values in grid.items():
        yield from _find_repeated(("grid", dotted), [json.dumps(value, sort_keys=True) for value in values])
    yield from find_misplaced_overrides(variants, [("grid", dotted) for dotted in grid])


def _find_repeated(path: KeyPath, texts: Sequence[str]) -> Iterator[Problem]:
    """Find repeated items of a list."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if first.setdefault(text, index) != index:
            yield Problem((*path, index), f"{text[:100]} appears more than once")


def _load_base(config: ExperimentConfig, document: Document, file: Path, problems: list[Problem]) -> Document | None:
    """Read the config that all runs share.

    :raises ConfigError: if it cannot be read
    """
    if isinstance(config.base, dict) and "extends" in config.base:
        problems.append(Problem(("base", "extends"), "works only in a file", "give that file as the base"))
        return None
    if isinstance(config.base, dict):
        base = Document(deepcopy(config.base), get_locations(document, ("base",)))
        base.data.setdefault("name", config.name)
        return base
    path = file.parent / config.base
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        problems.append(Problem(("base",), f"the file {path} does not exist"))
        return None
    base = compose_document(path)
    if not isinstance(base.data, dict):
        resolve_document(base)  # raises the error that explains it
    return base
