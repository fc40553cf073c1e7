"""The tuning file: its schema, and the plan of its search. All of it is checked before a trial starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from toolkit.config.components import BoundComponent, bind_component
from toolkit.config.compose import apply_overrides, compose_document
from toolkit.config.load import ResolvedConfig, resolve_document
from toolkit.config.registry import KINDS
from toolkit.config.schema import Component, ComponentConfig, Params
from toolkit.config.validation import Count, Seeds, StrictModel, sort_problems, validate_document
from toolkit.config.yaml_document import Document
from toolkit.experiments.variants import (
    PlannedRun,
    Variant,
    VariantProblems,
    find_bad_names,
    find_misplaced_overrides,
    find_name_problems,
    make_variants,
)
from toolkit.training.callbacks import SuccessCriterion
from toolkit.tuning.search_space import Dimension, SearchDomain, find_space_problems, make_space
from toolkit.tuning.storage import has_password, quiet_optuna
from toolkit.utils.errors import ConfigError, Problem

ObjectiveName = Literal["mean_return", "timesteps_to_success"]


class TuningConfig(StrictModel):
    """A tuning file."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of the study and of its directory. The default is the stem of the file."""
    base: Annotated[str, Field(min_length=1)]
    """Path of the config whose values are searched, relative to this file."""
    variants: Annotated[dict[str, Params], Field(min_length=1)] | None = None
    """What each variant of the base changes: values by dotted path in the config, by the variant's name. Each trial
    trains every variant. Write the hardest one first: trials train in this order, and poor ones stop early."""
    across_variants: Literal["worst", "mean"] = "worst"
    """The score of a trial: the score of its worst variant, or the mean over its variants."""
    search: Annotated[dict[str, SearchDomain], Field(min_length=1)]
    """The range or choices of each searched value, by its dotted path in the config."""
    trials: Count
    """Total number of trials, over all workers and all calls that continue the search."""
    seeds: Seeds = (0,)
    """Each trial trains with each of these seeds. A number N means the seeds 0 to N - 1."""
    objective: ObjectiveName = "mean_return"
    """What a training is scored by (:mod:`toolkit.tuning.objectives`). The mean over the seeds counts."""
    sampler: Component = ComponentConfig(name="tpe")
    """Chooses the values of a trial: see `toolkit plugins samplers`."""
    pruner: Component = ComponentConfig(name="median", params={"n_warmup_steps": 5})
    """Stops unpromising trials early: see `toolkit plugins pruners`. A step is a twentieth of a training.
    The default is the median rule, after a quarter of the first training."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """URL of the study's database. The default is an SQLite file in the study's directory."""
    workers: Annotated[Count, Field(le=1_000)] = 1
    """Number of trials that run at once."""
    launcher: Component = ComponentConfig(name="local")
    """Where the workers run: see `toolkit plugins launchers`."""

    def dump(self) -> dict[str, Any]:
        """Return the file as plain data: with its defaults, but without the database, which may hold a password."""
        unused = {"variants", "across_variants"} if self.variants is None else set()
        return self.model_dump(mode="json", exclude={"storage", *unused})


@dataclass(frozen=True)
class TuningPlan:
    """A checked tuning file with its base, its variants and its components.

    :param variants: in a file without variants, only the base
    :param problems: collects problems of variants that only building shows
    """

    config: TuningConfig
    base: ResolvedConfig
    variants: tuple[Variant, ...]
    space: tuple[Dimension, ...]
    sampler: BoundComponent
    pruner: BoundComponent
    launcher: BoundComponent
    problems: VariantProblems

    @property
    def trainings(self) -> list[PlannedRun]:
        """The trainings of a trial in their order: every variant with the first seed, then with the second."""
        return [PlannedRun(variant, seed) for seed in self.config.seeds for variant in self.variants]

    @property
    def n_averaged(self) -> int:
        """Number of trainings whose mean is the score of a trial, or of one of its variants."""
        return len(self.config.seeds) * (len(self.variants) if self.config.across_variants == "mean" else 1)

    def get_directory_name(self, training: PlannedRun) -> str:
        """Return the path of a training's run directory in the directory of its trial."""
        return f"seed-{training.seed}" if self.config.variants is None else training.name


def load_tuning(path: Path, overrides: Sequence[str] = ()) -> TuningPlan:
    """Read a tuning file and check all of it, also its base, its variants, the ends of each range, and every choice.

    :param overrides: ``dotted.path=YAML value``, as after ``--set``
    :raises ConfigError: with every problem, each as ``FILE:LINE: dotted.path: what is wrong``
    """
    _refuse_visible_password(overrides)
    document = compose_document(path)
    apply_overrides(document, overrides)
    config, problems = validate_document(TuningConfig, document, "write at least base, search and trials")
    if config is None:
        raise _make_error(problems, document)
    base_path = path.parent / config.base
    if not os.path.isfile(base_path):  # Path.is_file raises for a name that is too long
        raise _make_error([*problems, Problem(("base",), f"the file {base_path} does not exist")], document)
    return make_plan(config, compose_document(base_path), document, path.resolve().parent, problems)


def _make_error(problems: Sequence[Problem], document: Document) -> ConfigError:
    return ConfigError(sort_problems(problems, document.locations), document.locations)


def make_plan(
    config: TuningConfig,
    base_document: Document,
    document: Document,
    directory: Path,
    problems: Sequence[Problem] = (),
) -> TuningPlan:
    """Find the components of a tuning file, and check what its schema does not.

    :param document: the file, for the locations in it
    :param directory: the directory of the file
    :param problems: what the schema has found; ``config`` lacks the values with these
    :raises ConfigError: with every problem
    """
    base = resolve_document(base_document)
    variants = [Variant(base.name, base, ())]
    variant_problems = VariantProblems(document, base_document, len(variants))
    if config.variants is not None:
        variants, variant_problems = make_variants(config.variants, {}, document, base_document, directory)
    space = make_space(config.search, base, variants)
    found = [*_find_problems(config, variants), *find_space_problems(space, variants, document)]
    sampler, pruner, launcher = (
        bind_component(
            lambda problems: ConfigError(problems, document.locations),
            KINDS[f"{key}s"],
            getattr(config, key),
            (key,),
            found,
        )
        for key in ("sampler", "pruner", "launcher")
    )
    # what contains an invalid value, which `config` lacks, may seem incomplete
    incomplete = {problem.path[:end] for problem in problems for end in range(len(problem.path))}
    variant_problems.raise_if_any([*problems, *(problem for problem in found if problem.path not in incomplete)])
    if sampler is None or pruner is None or launcher is None:
        raise _make_error(found, document)
    with quiet_optuna():
        sampler.build()
        pruner.build()
    return TuningPlan(config, base, tuple(variants), space, sampler, pruner, launcher, variant_problems)


def _find_problems(config: TuningConfig, variants: Sequence[Variant]) -> Iterator[Problem]:
    """Find the problems of a file beside its search space and its components.

    :param variants: the valid ones
    """
    if len({*config.seeds}) < len(config.seeds):
        yield Problem(("seeds",), "a seed appears more than once")
    if config.variants is None and "across_variants" in config.model_fields_set:
        yield Problem(("across_variants",), "there are no variants", "add 'variants', or remove it")
    if config.objective == "timesteps_to_success":
        yield from _find_missing_criteria(config, variants)
    yield from _find_variant_problems(config.variants or {}, [*config.search])


def _find_missing_criteria(config: TuningConfig, variants: Sequence[Variant]) -> Iterator[Problem]:
    hint = "add the callback 'success'"
    for variant in variants:
        if any(issubclass(callback.cls, SuccessCriterion) for callback in variant.config.components.callbacks):
            continue
        if config.variants is None:
            yield Problem(("objective",), "the base has no success criterion", hint)
        else:
            yield Problem(("variants", variant.name), "has no success criterion", hint)


def _find_variant_problems(variants: Mapping[str, Params], searched_paths: Sequence[str]) -> Iterator[Problem]:
    """Find bad names of variants, and values that a trial would replace."""
    yield from find_bad_names(variants)
    yield from find_name_problems([*variants], ("variants",), {})
    misplaced = find_misplaced_overrides(variants, [("search", searched) for searched in searched_paths])
    yield from (problem for problem in misplaced if problem.path[0] == "variants")
    for name, values in variants.items():
        for dotted, searched in itertools.product(values, searched_paths):
            if searched.startswith(f"{dotted}."):
                hint = "set its other values one by one"
                yield Problem(("variants", name, dotted), f"contains {searched}, which is searched", hint)


def _refuse_visible_password(overrides: Sequence[str]) -> None:
    if any(text.startswith("storage=") and has_password(text.removeprefix("storage=")) for text in overrides):
        message = "other users of this machine can read a password in a command line"
        raise ConfigError([Problem((), message, "write the URL into the file")], {(): "--set storage"})
