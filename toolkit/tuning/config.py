"""The tuning file: its schema, and the plan of its search. All of it is checked before a trial starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from toolkit.config.components import BoundComponent, bind_component
from toolkit.config.compose import apply_overrides, compose_document
from toolkit.config.load import ResolvedConfig, load_config
from toolkit.config.registry import KINDS
from toolkit.config.schema import Component, ComponentConfig
from toolkit.config.validation import Count, Seeds, StrictModel, sort_problems, validate_document
from toolkit.config.yaml_document import Document
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
    search: Annotated[dict[str, SearchDomain], Field(min_length=1)]
    """The range or choices of each searched value, by its dotted path in the config."""
    trials: Count
    """Total number of trials, over all workers and all calls that continue the search."""
    seeds: Seeds = (0,)
    """Each trial trains with each of these seeds. A number N means the seeds 0 to N - 1."""
    objective: ObjectiveName = "mean_return"
    """What a trial is scored by (:mod:`toolkit.tuning.objectives`), as the mean over its seeds."""
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


@dataclass(frozen=True)
class TuningPlan:
    """A checked tuning file with its base and its components."""

    config: TuningConfig
    base: ResolvedConfig
    space: tuple[Dimension, ...]
    sampler: BoundComponent
    pruner: BoundComponent
    launcher: BoundComponent


def load_tuning(path: Path, overrides: Sequence[str] = ()) -> TuningPlan:
    """Read a tuning file and check all of it, also its base, the ends of each range, and every choice.

    :param overrides: ``dotted.path=YAML value``, as after ``--set``
    :raises ConfigError: with every problem, each as ``FILE:LINE: dotted.path: what is wrong``
    """
    _refuse_visible_password(overrides)
    document = compose_document(path)
    apply_overrides(document, overrides)

    def report(problems: Sequence[Problem]) -> ConfigError:
        return ConfigError(sort_problems(problems, document.locations), document.locations)

    config, problems = validate_document(TuningConfig, document, "write at least base, search and trials")
    if config is None:
        raise report(problems)
    base_path = path.parent / config.base
    if not os.path.isfile(base_path):  # Path.is_file raises for a name that is too long
        raise report([*problems, Problem(("base",), f"the file {base_path} does not exist")])
    plan, plan_problems = make_plan(config, load_config(base_path), document)
    # `config` lacks the invalid values: what contains one may seem incomplete
    incomplete = {problem.path[:end] for problem in problems for end in range(len(problem.path))}
    problems += [problem for problem in plan_problems if problem.path not in incomplete]
    if plan is None or problems:
        raise report(problems)
    return plan


def make_plan(
    config: TuningConfig, base: ResolvedConfig, document: Document
) -> tuple[TuningPlan | None, list[Problem]]:
    """Find the components of a tuning file, and check what its schema does not.

    :param document: the file, for the locations in it
    :return: the plan, ``None`` if a component was not found; and every problem
    """
    space = make_space(config.search, base)
    problems = [*find_space_problems(space, base, document)]
    if len({*config.seeds}) < len(config.seeds):
        problems.append(Problem(("seeds",), "a seed appears more than once"))
    has_criterion = any(issubclass(callback.cls, SuccessCriterion) for callback in base.components.callbacks)
    if config.objective == "timesteps_to_success" and not has_criterion:
        problems.append(Problem(("objective",), "the base has no success criterion", "add the callback 'success'"))

    def report(problems: Sequence[Problem]) -> ConfigError:
        return ConfigError(problems, document.locations)

    sampler, pruner, launcher = (
        bind_component(report, KINDS[f"{key}s"], getattr(config, key), (key,), problems)
        for key in ("sampler", "pruner", "launcher")
    )
    if sampler is None or pruner is None or launcher is None:
        return None, problems
    if not problems:
        with quiet_optuna():
            sampler.build()
            pruner.build()
    return TuningPlan(config, base, space, sampler, pruner, launcher), problems


def _refuse_visible_password(overrides: Sequence[str]) -> None:
    if any(text.startswith("storage=") and has_password(text.removeprefix("storage=")) for text in overrides):
        message = "other users of this machine can read a password in a command line"
        raise ConfigError([Problem((), message, "write the URL into the file")], {(): "--set storage"})
