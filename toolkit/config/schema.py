"""The schema of a run config, and its YAML.

This module knows the shape of a config. :mod:`toolkit.config.components` checks the components that it names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr
from pydantic_core import PydanticSerializationError

from toolkit.config import yaml_document
from toolkit.config.trust import RunOrigin
from toolkit.config.validation import Count, Seed, StrictModel, validate_document
from toolkit.config.yaml_document import Document
from toolkit.utils.data import MONITOR_COLUMNS, are_equal
from toolkit.utils.errors import ConfigError, KeyPath, Problem


def _component_from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Params = dict[str, Any]


class ComponentConfig(StrictModel):
    """A component by name, with its parameters; in YAML a bare name is enough without parameters."""

    name: Annotated[str, Field(min_length=1)]
    """A registered name, `module:Class`, or `./file.py:Class` relative to this file."""
    params: Params = {}
    """Keyword arguments of the component."""


Component = Annotated[
    ComponentConfig,
    BeforeValidator(_component_from_name, json_schema_input_type=str | ComponentConfig),
]


def _check_info_keyword(name: str) -> str:
    if name in MONITOR_COLUMNS:
        raise ValueError(f"should differ from the first columns of monitor.csv ({', '.join(MONITOR_COLUMNS)})")
    if not name.isprintable():
        raise ValueError("should have printable characters only")
    return name


def _check_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names}) < len(names):
        raise ValueError("should have each name once")
    return names


InfoKeyword = Annotated[str, Field(min_length=1), AfterValidator(_check_info_keyword)]


class EnvConfig(StrictModel):
    """The environment to train in."""

    id: Annotated[str, Field(min_length=1)]
    """A Gymnasium id, also `module:Env-v0`; or `./file.py:Name`, a class or function that makes the environment."""
    max_episode_steps: Count | None = None
    """Time limit in steps of the environment with its base wrappers; by default its own."""
    params: Params = {}
    """Keyword arguments of the environment."""
    reset_options: Params = {}
    """Options of every reset of the environment."""
    n_envs: Annotated[Count, Field(le=10_000)] = 1
    """Number of environments that step together."""
    vec_env: Literal["dummy", "subproc", "vector", "envpool"] = "dummy"
    """Whether they step in this process, each in its own (SB3's DummyVecEnv, SubprocVecEnv), or all in one call."""
    step_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds that a step or reset may take with `vec_env: subproc`."""
    base_wrappers: tuple[Component, ...] = ()
    """Gymnasium wrappers that are part of the environment, innermost first: the rewards that they return are raw."""
    wrappers: tuple[Component, ...] = ()
    """Gymnasium wrappers, innermost first, outside Monitor: logged returns stay raw."""
    info_keywords: Annotated[tuple[InfoKeyword, ...], AfterValidator(_check_unique)] = ()
    """Keys of the `info` of an episode's last step: columns of `monitor.csv`, and means in the log."""
    vec_wrappers: tuple[Component, ...] = ()
    """SB3 wrappers around all environments, innermost first: `vec_normalize`, `vec_frame_stack`."""

    @property
    def name(self) -> str:
        """The name of the environment in messages and reports: its id, or the class or function of a path."""
        return name_env(self.id)


def name_env(env_id: str) -> str:
    """Return the name of an environment in messages and reports, without the file or module that has it."""
    return env_id.rpartition(":")[2] or env_id


class AlgorithmConfig(StrictModel):
    """The algorithm and its policy."""

    name: Annotated[str, Field(min_length=1)]
    """A registered algorithm, or a Python path."""
    policy: Annotated[str, Field(min_length=1)] = "MlpPolicy"
    """An alias of the algorithm, a registered policy, or a Python path."""
    params: Params = {}
    """Keyword arguments of the algorithm."""
    policy_params: Params = {}
    """Keyword arguments of the policy (SB3's `policy_kwargs`)."""
    accelerate: bool = True
    """Whether algorithms of SB3 and sb3-contrib train in a faster form, to the same weights but for rounding."""


class SnapshotsConfig(StrictModel):
    """When the whole training state is saved for `toolkit resume`; an interrupt saves it too."""

    every_timesteps: Count | None = None
    """Environment steps between two snapshots."""
    every_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 10.0
    """Minutes between two snapshots."""
    keep: Count = 2
    """How many of the latest snapshots are kept, besides the one with the best mean return."""


def _check_model(name: str) -> str:
    if not re.fullmatch(r"final|best|snapshot:[0-9]{1,18}", name):
        raise ValueError("should be final, best or snapshot:N, where N are its timesteps")
    return name


def _start_from_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class StartFromConfig(StrictModel):
    """The trained model whose weights training starts from."""

    path: Annotated[str, Field(min_length=1)]
    """A run directory, or a `model.zip` of SB3, relative to this file."""
    model: Annotated[str, AfterValidator(_check_model)] = "final"
    """Which model of a run directory: `final`, `best` or `snapshot:N`."""
    optimizer: bool = True
    """Whether the state of the optimizers comes along; their settings are those of this config."""
    continues: bool = False
    """Whether training continues where that run was, as after `toolkit continue`: `timesteps` then counts its own."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the model's file; training refuses another one. Filled in when this file is read."""


class RunConfig(StrictModel):
    """The config of one training run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    """Name of the run directory; by default the stem of the file."""
    seed: Seed = 0
    """Seeds of training, evaluation and video environments are derived from it."""
    timesteps: Count
    """Number of environment steps to train for, over all environments."""
    import_modules: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Modules to import first, as `ale_py` or `./my_envs.py`, and functions to call, as `package:register_envs`."""
    env: EnvConfig
    algorithm: Annotated[
        AlgorithmConfig,
        BeforeValidator(_component_from_name, json_schema_input_type=str | AlgorithmConfig),
    ]
    start_from: Annotated[
        StartFromConfig | None,
        BeforeValidator(_start_from_path, json_schema_input_type=str | StartFromConfig | None),
    ] = None
    """A trained model to start from: its path, or a mapping."""
    callbacks: tuple[Component, ...] = ()
    """SB3 callbacks, called in this order; `{run}` in their parameters is the run directory."""
    snapshots: SnapshotsConfig = SnapshotsConfig()
    """When the whole training state is saved."""

    _locations: dict[KeyPath, str] = PrivateAttr(default_factory=dict)
    _origin: RunOrigin | None = PrivateAttr(default=None)

    @property
    def origin(self) -> RunOrigin | None:
        """The run directory that this was read from; ``None`` for the user's own config, whose code may run."""
        return self._origin

    def __eq__(self, other: object) -> bool:
        """Compare the values of configs, not their locations."""
        return isinstance(other, RunConfig) and are_equal(self.model_dump(), other.model_dump())

    __hash__ = None  # type: ignore[assignment]

    def make_error(self, problems: Sequence[Problem]) -> ConfigError:
        """Return the error that reports problems with the file and line of each."""
        return ConfigError(problems, self._locations)

    def get_directory(self, path: KeyPath) -> Path:
        """Return the directory that relative files in a value start at: that of the file which has the value."""
        place = Problem(path, "").nearest(self._locations)
        location = "" if place is None else self._locations[place]
        return Path() if location.startswith("--set") else Path(location.rpartition(":")[0]).parent

    def to_document(self) -> Document:
        """Return the whole config, defaults included, as plain data.

        :raises ConfigError: if a parameter is not plain data, which only Python can give
        """
        try:
            return Document(self.model_dump(mode="json"), dict(self._locations), self._origin)
        except PydanticSerializationError as error:
            raise self.make_error([Problem((), f"cannot be written as YAML: {error}", "name a component")]) from error

    def to_yaml(self) -> str:
        """Return the whole config, defaults included, as YAML that reads back as the same config.

        :raises ConfigError: if a parameter is not plain data
        """
        return yaml_document.dump(self.to_document().data)


def parse_config(document: Document) -> tuple[RunConfig | None, list[Problem]]:
    """Check the shape of a config.

    :return: the config, and every problem. With problems, the config holds the valid rest of the document,
        which can still be checked. It is ``None`` if too little is valid.
    """
    hint = "write at least timesteps, env.id and algorithm.name"
    config, problems = validate_document(RunConfig, document, hint, {"timesteps": 1})
    if config is None:
        return None, problems
    config._locations.update(document.locations)
    config._origin = document.origin
    return config, problems
