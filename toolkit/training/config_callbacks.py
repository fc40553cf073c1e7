"""The callbacks of a config: how they are built, and where those of SB3 write."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)

from toolkit.config.components import BoundComponent, bind_callback
from toolkit.config.load import ResolvedConfig
from toolkit.config.registry import KINDS
from toolkit.config.run_path import RUN, has_run_directory
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.training.callbacks import SuccessCriterion
from toolkit.training.checks import describe_second_environment
from toolkit.training.eval_env import EvaluationEnv
from toolkit.training.run_directory import OWN_FILES
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import ConfigError, KeyPath, Problem
from toolkit.utils.model_files import BEST

# parameters that count from 1
_COUNTS: dict[type[BaseCallback], tuple[str, ...]] = {
    CheckpointCallback: ("save_freq",),
    EvalCallback: ("eval_freq", "n_eval_episodes"),
    EveryNTimesteps: ("n_steps",),
    StopTrainingOnMaxEpisodes: ("max_episodes",),
}
# attributes, and parameters, that are paths
_PATHS: dict[type[BaseCallback], tuple[str, ...]] = {
    CheckpointCallback: ("save_path",),
    EvalCallback: ("log_path", "best_model_save_path"),
}
_EVAL_FILES = {"log_path": "evaluations.npz", "best_model_save_path": "best_model.zip"}


def list_callbacks_with_run(config: ResolvedConfig) -> list[int]:
    """Return the indices of the config's callbacks with ``{run}`` in a parameter."""
    return [index for index, callback in enumerate(config.callbacks) if has_run_directory(callback.params)]


def refuse_unfit_callbacks(config: ResolvedConfig) -> None:
    """Refuse callbacks, nested ones too, that SB3 builds, but that lose results or never do their work.

    :raises ConfigError: with every problem
    """
    components = [nested for outermost in config.components.callbacks for nested in outermost.iterate_nested()]
    keeps_best = any(component.get_argument("keep_best") for component in components)
    own_files = OWN_FILES | {BEST} if keeps_best else OWN_FILES
    problems = [problem for component in components for problem in _find_problems(component, own_files)]
    if problems := [*problems, *_find_shared_files(components)]:
        raise config.make_error(problems)


def build_config_callback(config: ResolvedConfig, index: int, env: EvaluationEnv, run: Path) -> BaseCallback:
    """Build a callback of a config, with the evaluation environment where it takes one and has none.

    :param run: directory that ``{run}`` names
    :raises ConfigError: if it cannot be built
    """
    component = bind_callback(config, config.callbacks[index], config.components.callbacks[index], run.absolute())

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


def _find_problems(component: BoundComponent, own_files: Collection[str]) -> Iterator[Problem]:
    """Yield what SB3 would not notice: paths that are not meant for callbacks, counts below 1, a lost success.

    :param own_files: what the toolkit writes in the run directory
    """
    path: KeyPath = (*component.path, "params")
    for name, file in _list_files(component):
        if problem := _check_directory(str(component.get_argument(name)), (*path, name)):
            yield problem
        first = os.path.relpath(os.path.dirname(file), RUN).split(os.sep)[0]
        if first in own_files:
            yield Problem((*path, name), f"the toolkit writes '{first}' in the run directory", "choose another path")
    for name in _list_names(_COUNTS, component.cls):
        if isinstance(count := component.arguments.get(name), int) and count < 1:
            yield Problem((*path, name), f"should be at least 1, not {count}")
    if issubclass(component.cls, SuccessCriterion) and len(component.path) > 2:
        message = f"'{component.name}' decides the success of the run, so it cannot be inside another callback"
        yield Problem(component.path, message, "name it directly in callbacks")


def _check_directory(directory: str, path: KeyPath) -> Problem | None:
    """Return the problem that SB3 would make a directory that the text does not mean."""
    if "://" in directory:
        return Problem(path, f"'{directory}' is a URL, but SB3 writes into directories", "write a path")
    if directory.startswith("~"):
        hint = f"write the absolute path, or one under {RUN}"
        return Problem(path, f"'{directory}' would be a directory named ~: SB3 does not expand it", hint)
    if RUN in directory and not f"{directory}/".startswith(f"{RUN}/"):
        return Problem(path, f"'{directory}' is not inside the run directory", f"start with {RUN}/")
    return None


def _find_shared_files(components: Sequence[BoundComponent]) -> Iterator[Problem]:
    """Yield a problem for each callback that writes over the files of another one."""
    writers: dict[str, KeyPath] = {}
    for component in components:
        for name, file in _list_files(component):
            path = (*component.path, "params", name)
            first = writers.setdefault(file, path)
            if first != path:
                hint = "choose another path, or another name_prefix" if name == "save_path" else "choose another path"
                yield Problem(path, f"writes the same files as {'.'.join(map(str, first))}", hint)


def _list_files(component: BoundComponent) -> Iterator[tuple[str, str]]:
    """Yield each parameter that is a directory, and what is written there; relative paths start with ``{run}``."""
    for name in _list_names(_PATHS, component.cls):
        if (directory := component.get_argument(name)) is None:
            continue
        prefix = component.get_argument("name_prefix") or component.cls.__name__
        path = os.path.join(str(directory), _EVAL_FILES.get(name, f"{prefix}_*_steps.zip"))
        yield name, os.path.normpath(path if path.startswith(RUN) else os.path.join(RUN, path))
