"""SB3's ``EvalCallback`` beside a config: what its own evaluation lacks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence

from gymnasium import RewardWrapper
from gymnasium.wrappers import (
    NormalizeObservation,
    NormalizeReward,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    TimeLimit,
)
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, is_vecenv_wrapped

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.utils.errors import ConfigError, KeyPath, Problem

_log = logging.getLogger("toolkit")

_NOT_FOR_ACTING = (
    *(RewardWrapper, NormalizeReward, TimeLimit, OrderEnforcing, PassiveEnvChecker),
    *(RecordEpisodeStatistics, RecordVideo, Monitor),
)


def check_eval_callbacks(
    config: ResolvedConfig,
    model: BaseAlgorithm,
    callbacks: Sequence[BaseCallback],
    passed_callbacks: Sequence[BaseCallback] = (),
) -> None:
    """Refuse an ``EvalCallback`` that passes no action masks; warn of one that plays without the config's wrappers.

    :param callbacks: those of the config, in its order
    :param passed_callbacks: those that :func:`toolkit.train` was given
    :raises ConfigError: if the algorithm takes action masks and an ``EvalCallback`` evaluates it without them
    """
    places: list[tuple[KeyPath, str]] = [(("callbacks", index), "") for index in range(len(callbacks))]
    places += [((), f"callbacks[{index}] of toolkit.train: ") for index in range(len(passed_callbacks))]
    takes_masks = "action_masks" in inspect.signature(model.predict).parameters
    problems = []
    for (path, name), outermost in zip(places, [*callbacks, *passed_callbacks], strict=True):
        for callback in _iterate_nested(outermost):
            if takes_masks and type(callback)._on_step is EvalCallback._on_step:
                message = f"{name}SB3's EvalCallback passes no action masks, so it plays invalid actions"
                hint = "use sb3_contrib.common.maskable.callbacks:MaskableEvalCallback"
                problems.append(Problem(path, message, hint))
            elif isinstance(callback, EvalCallback) and (lacks := _list_missing_wrappers(config, callback.eval_env)):
                place = name or f"{'.'.join(map(str, path))}: "
                _log.warning("%s%s plays without %s", place, type(callback).__name__, ", ".join(lacks))
    if any(problem.path for problem in problems):
        raise config.make_error(problems)
    if problems:
        raise ConfigError(problems)


def _iterate_nested(callback: BaseCallback) -> Iterator[BaseCallback]:
    """Yield a callback and those that it holds, as ``CallbackList`` and ``EveryNTimesteps`` do, each once."""
    nested = {id(callback): callback}  # callbacks may refer to each other
    remaining = [callback]
    while remaining:
        current = remaining.pop()
        yield current
        for value in [value for name, value in vars(current).items() if name != "parent"]:
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, BaseCallback) and id(item) not in nested:
                    nested[id(item)] = item
                    remaining.append(item)


def _list_missing_wrappers(config: ResolvedConfig, eval_env: VecEnv) -> list[str]:
    """Name the config's wrappers that an environment lacks, and those whose statistics it does not have.

    Wrappers of rewards and of time limits do not count: the agent acts without them as with them. SB3 itself compares
    ``VecNormalize``.
    """
    names = []
    for component in (*config.components.base_wrappers, *config.components.wrappers):
        is_compared = inspect.isclass(component.cls) and not issubclass(component.cls, _NOT_FOR_ACTING)
        if is_compared and not all(eval_env.env_is_wrapped(component.cls)):
            names.append(_format_wrapper(component))
        elif is_compared and issubclass(component.cls, NormalizeObservation):
            names.append(f"the training's statistics of {_format_wrapper(component)}")
    for component in config.components.vec_wrappers:
        is_compared = inspect.isclass(component.cls) and not issubclass(component.cls, VecNormalize)
        if is_compared and not is_vecenv_wrapped(eval_env, component.cls):
            names.append(_format_wrapper(component))
    return names


def _format_wrapper(component: BoundComponent) -> str:
    return f"{component.cls.__name__} ({'.'.join(map(str, component.path))})"
