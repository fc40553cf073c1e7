"""The callbacks of a config: how they are built, and where those of SB3 write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

from toolkit.config.components import BoundComponent, bind_callback
from toolkit.config.load import ResolvedConfig
from toolkit.config.registry import KINDS
from toolkit.config.run_path import RUN, has_run_directory
from toolkit.config.signatures import NestedComponent
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.training.checks import describe_second_environment
from toolkit.training.eval_env import EvaluationEnv
from toolkit.training.run_directory import OWN_FILES
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import ConfigError, KeyPath, Problem

# parameters that count from 1
_COUNTS: dict[type[BaseCallback], tuple[str, ...]] = {
    CheckpointCallback: ("save_freq",),
    EvalCallback: ("n_eval_episodes",),
}
# attributes, and parameters, that are paths
_PATHS: dict[type[BaseCallback], tuple[str, ...]] = {
    CheckpointCallback: ("save_path",),
    EvalCallback: ("log_path", "best_model_save_path"),
}


def list_callbacks_with_run(config: ResolvedConfig) -> list[int]:
    """Return the indices of the config's callbacks with ``{run}`` in a parameter."""
    return [index for index, callback in enumerate(config.callbacks) if has_run_directory(callback.params)]


def build_config_callback(config: ResolvedConfig, index: int, env: EvaluationEnv, run: Path) -> BaseCallback:
    """Build a callback of a config, with the evaluation environment where it takes one and has none.

    :param run: directory that ``{run}`` names
    :raises ConfigError: if it cannot be built, or would write over files of the run directory
    """
    component = config.components.callbacks[index]
    if problems := [*_find_problems(component)]:
        raise config.make_error(problems)
    component = bind_callback(config, config.callbacks[index], component, run.absolute())

    def build_env() -> EpisodeRecorder:
        try:
            return env.build()
        except ConfigError as error:
            raise describe_second_environment(config, component, error) from error

    callback: BaseCallback = component.build_with_envs(KINDS["callbacks"], build_env)
    return callback


def place_files(callbacks: Sequence[BaseCallback], run: Path) -> None:
    """Let SB3's callbacks write their relative paths under the run directory."""
    for callback in (nested for outermost in callbacks for nested in iterate_nested(outermost)):
        for name in _list_names(_PATHS, type(callback)):
            if (path := getattr(callback, name, None)) is not None:
                setattr(callback, name, os.path.join(run.absolute(), path))


def _list_names(names_by_class: Mapping[type[BaseCallback], tuple[str, ...]], cls: type[Any]) -> list[str]:
    return [name for base, names in names_by_class.items() if issubclass(cls, base) for name in names]


def _find_problems(component: BoundComponent | NestedComponent) -> Iterator[Problem]:
    """Yield what SB3 would not notice: paths of the toolkit's own files in a run directory, and counts below 1."""
    path: KeyPath = (*component.path, "params")
    for name in _list_names(_PATHS, component.cls):
        parts = Path(str(component.arguments.get(name, ""))).parts
        if (first := next((part for part in parts if part != RUN), None)) in OWN_FILES:
            yield Problem((*path, name), f"the toolkit writes '{first}' in the run directory", "choose another path")
    for name in _list_names(_COUNTS, component.cls):
        if isinstance(count := component.arguments.get(name), int) and count < 1:
            yield Problem((*path, name), f"should be at least 1, not {count}")
    for value in component.arguments.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, NestedComponent):
                yield from _find_problems(item)
