"""The tuning file: which values of a config are searched for, and how; all of it checked before anything starts."""

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
from toolkit.tuning.search_space import Dimension, Searched, make_space, space_problems
from toolkit.tuning.storage import has_password, quiet
from toolkit.utils.errors import ConfigError, Problem

ObjectiveName = Literal["mean_return", "timesteps_to_success"]


class TuningConfig(StrictModel):
    """A search, whole."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of the study and of its directory; left out, the stem of the file."""
    base: Annotated[str, Field(min_length=1)]
    """The config whose values are searched for, relative to this file."""
    search: Annotated[dict[str, Searched], Field(min_length=1)]
    """Where each value is searched for, by its dotted path in the config."""
    trials: Count
    """How many there are, over all workers and all times that the search is gone on with."""
    seeds: Seeds = (0,)
    """Each trial trains with each of these; a number means as many, from 0."""
    objective: ObjectiveName = "mean_return"
    """What a trial is judged by (:mod:`toolkit.tuning.objectives`), the mean over its seeds."""
    sampler: Component = ComponentConfig(name="tpe")
    """What chooses a trial's values: see `toolkit plugins samplers`."""
    pruner: Component = ComponentConfig(name="median", params={"n_warmup_steps": 5})
    """What stops a trial early whose learning curve promises little: see `toolkit plugins pruners`; a step is a
    twentieth of a training. Left out, the median rule, after a quarter of the first training."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """URL of the database that has the study; left out, SQLite in the study's directory."""
    workers: Annotated[Count, Field(le=1_000)] = 1
    """How many trials are run at once."""
    launcher: Component = ComponentConfig(name="local")
    """Where the workers run: see `toolkit plugins launchers`."""


@dataclass(frozen=True)
class Tuning:
    """A tuning file that has been checked, with the components it names."""

    config: TuningConfig
    base: ResolvedConfig
    space: tuple[Dimension, ...]
    sampler: BoundComponent
    pruner: BoundComponent
    launcher: BoundComponent


def load_tuning(path: Path, overrides: Sequence[str] = ()) -> Tuning:
    """Read a tuning file and check all of it, its base and the ends of each range and every choice included.

    :param overrides: ``dotted.path=YAML value``, as after ``--set``, over the tuning file
    :raises ConfigError: with every problem found, each as ``FILE:LINE: dotted.path: what is wrong``
    """
    _refuse_shown_password(overrides)
    document = compose_document(path)
    apply_overrides(document, overrides)
    config, problems = validate_document(TuningConfig, document, "write at least base, search and trials")
    if config is None:
        raise ConfigError(sort_problems(problems, document.locations), document.locations)
    base_path = path.parent / config.base
    if not os.path.isfile(base_path):  # Path.is_file raises for a name that is too long
        problems.append(Problem(("base",), f"there is no file {base_path}"))
        raise ConfigError(sort_problems(problems, document.locations), document.locations)
    tuning, found = bind_tuning(config, load_config(base_path), document)
    spoilt = {problem.path[:end] for problem in problems for end in range(len(problem.path))}
    problems += [problem for problem in found if problem.path not in spoilt]  # what was cut out may be missing there
    if tuning is None or problems:
        raise ConfigError(sort_problems(problems, document.locations), document.locations)
    return tuning


def bind_tuning(config: TuningConfig, base: ResolvedConfig, document: Document) -> tuple[Tuning | None, list[Problem]]:
    """Find what a tuning file names, and check what its shape does not show.

    :param document: the file, for the places in it
    :return: ``None`` if a component cannot be found, and every problem
    """
    space = make_space(config.search, base)
    problems = [*space_problems(space, base, document)]
    if len({*config.seeds}) < len(config.seeds):
        problems.append(Problem(("seeds",), "a seed is given more than once"))
    criteria = [one for one in base.components.callbacks if issubclass(one.cls, SuccessCriterion)]
    if config.objective == "timesteps_to_success" and not criteria:
        problems.append(Problem(("objective",), "the base has no success criterion", "add the callback 'success'"))

    def report(found: Sequence[Problem]) -> ConfigError:
        return ConfigError(found, document.locations)

    named = [
        bind_component(report, KINDS[f"{key}s"], getattr(config, key), (key,), problems)
        for key in ("sampler", "pruner", "launcher")
    ]
    components = [one for one in named if one is not None]
    if len(components) < len(named):
        return None, problems
    with quiet():
        for component in [] if problems else components[:2]:
            component.build()
    return Tuning(config, base, space, *components), problems


def _refuse_shown_password(overrides: Sequence[str]) -> None:
    if any(text.startswith("storage=") and has_password(text.removeprefix("storage=")) for text in overrides):
        message = "others on this machine can read the password in a command line"
        raise ConfigError([Problem((), message, "write the URL into the file")], {(): "--set storage"})
