"""SB3's ``EvalCallback`` beside a config: what its own evaluation lacks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence

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
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    is_vecenv_wrapped,
    sync_envs_normalization,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.snapshots.object_kinds import is_stateless_env
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import ConfigError, KeyPath, Problem
from toolkit.utils.vec_envs import iterate_vec_wrappers

_log = logging.getLogger("toolkit")

_MAY_HOLD = (EvalCallback, type(None))  # a CallbackList names itself as the parent when training starts
_NOT_FOR_ACTING = (
    *(RewardWrapper, NormalizeReward, TimeLimit, OrderEnforcing, PassiveEnvChecker),
    *(RecordEpisodeStatistics, RecordVideo, Monitor),
)


def prepare_eval_callbacks(
    config: ResolvedConfig,
    model: BaseAlgorithm,
    callbacks: Mapping[int, BaseCallback],
    passed_callbacks: Sequence[BaseCallback],
) -> None:
    """Let each ``EvalCallback`` find the statistics of training, or refuse it; warn of what it evaluates wrongly.

    :param callbacks: those of the config, by their index in it
    :param passed_callbacks: those that :func:`toolkit.train` was given
    :raises ConfigError: if an ``EvalCallback`` and the algorithm disagree on action masks, its environment is not
        wrapped as SB3 needs it, or a callback that needs an ``EvalCallback`` around it has none
    """
    places: list[tuple[KeyPath, str]] = [(("callbacks", index), "") for index in callbacks]
    places += [((), f"callbacks[{index}] of toolkit.train: ") for index in range(len(passed_callbacks))]
    problems = []
    for (path, name), outermost in zip(places, [*callbacks.values(), *passed_callbacks], strict=True):
        place = name or f"{'.'.join(map(str, path))}: "
        for callback in iterate_nested(outermost):
            if problem := _find_parent_problem(callback, outermost):
                problems.append(Problem(path, f"{name}{problem[0]}", problem[1]))
            if not isinstance(callback, EvalCallback):
                continue
            _align(callback, model)
            if problem := _find_mask_problem(callback, model) or _find_statistics_problem(callback, model):
                problems.append(Problem(path, f"{name}{problem[0]}", problem[1]))
            elif not is_stateless_env(callback.eval_env):
                for text in _list_doubts(config, model, callback.eval_env):
                    _log.warning("%s%s %s", place, type(callback).__name__, text)
    if any(problem.path for problem in problems):
        raise config.make_error(problems)
    if problems:
        raise ConfigError(problems)


def _find_parent_problem(callback: BaseCallback, outermost: BaseCallback) -> tuple[str, str] | None:
    """Return why a callback cannot ask the ``EvalCallback`` around it for the best mean return, or never stops."""
    parameters = {
        StopTrainingOnNoModelImprovement: "callback_after_eval",
        StopTrainingOnRewardThreshold: "callback_on_new_best",
    }
    for cls, parameter in parameters.items():
        if isinstance(callback, cls) and (callback is outermost or not isinstance(callback.parent, _MAY_HOLD)):
            return f"{type(callback).__name__} needs an EvalCallback around it", f"name it in the {parameter} of eval"
    is_on_new_best = getattr(callback.parent, "callback_on_new_best", None) is callback
    if is_on_new_best and isinstance(callback, StopTrainingOnNoModelImprovement):
        message = f"{type(callback).__name__} never stops training in callback_on_new_best"
        return message, "name it in the callback_after_eval of eval"
    return None


class _Layer(VecEnvWrapper):
    """Changes nothing: SB3 compares two environments layer by layer, and training has layers of the toolkit."""

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()


def _align(callback: EvalCallback, model: BaseAlgorithm) -> None:
    """Give an environment so many layers that SB3 finds its ``VecNormalize`` beside that of training."""
    depth, own_depth = _get_depth(model.get_env()), _get_depth(callback.eval_env)
    if depth is not None and own_depth is not None:
        for _ in range(depth - own_depth):
            callback.eval_env = _Layer(callback.eval_env)


def _get_depth(venv: VecEnv | None) -> int | None:
    """Return the number of layers around ``VecNormalize``; None if there is none."""
    layers = enumerate(iterate_vec_wrappers(venv))
    return next((depth for depth, layer in layers if isinstance(layer, VecNormalize)), None)


def _find_mask_problem(callback: EvalCallback, model: BaseAlgorithm) -> tuple[str, str] | None:
    has_masks = "action_masks" in inspect.signature(model.predict).parameters
    if has_masks and type(callback)._on_step is EvalCallback._on_step:
        return "SB3's EvalCallback passes no action masks, so it plays invalid actions", "use maskable_eval"
    if not has_masks and getattr(callback, "use_masking", False):
        return f"{type(callback).__name__} passes action masks, but {type(model).__name__} takes none", "use eval"
    return None


def _find_statistics_problem(callback: EvalCallback, model: BaseAlgorithm) -> tuple[str, str] | None:
    """Return why SB3 cannot copy the statistics of training, which it does before an evaluation."""
    training_env = model.get_env()
    if training_env is None or model.get_vec_normalize_env() is None or not _is_sb3_evaluation(callback):
        return None
    try:
        sync_envs_normalization(training_env, callback.eval_env)
    except (AssertionError, AttributeError):
        message = f"the eval_env of {type(callback).__name__} is not wrapped as the training environments are"
        return message, "leave out eval_env: the config's own is wrapped so"
    return None


def _is_sb3_evaluation(callback: EvalCallback) -> bool:
    owner = next(cls for cls in type(callback).__mro__ if "_on_step" in vars(cls))
    return owner.__module__.partition(".")[0] in ("stable_baselines3", "sb3_contrib")


def _list_doubts(config: ResolvedConfig, model: BaseAlgorithm, eval_env: VecEnv) -> list[str]:
    """Say what makes an evaluation differ from one with the config's own environment."""
    doubts = []
    if lacks := _list_missing_wrappers(config, eval_env):
        doubts.append(f"plays without {', '.join(lacks)}")
    if text := _describe_other_normalization(model.get_env(), eval_env):
        doubts.append(text)
    if _has_normalized_returns(eval_env):
        doubts.append("measures normalized rewards; set norm_reward to false, or leave out eval_env")
    return doubts


def _describe_other_normalization(training_env: VecEnv | None, eval_env: VecEnv) -> str | None:
    """Say whether the agent sees normalized observations only in training, or only in evaluations."""
    if training_env is None:
        return None
    if _has_vec_normalized_observations(training_env) and not _has_vec_normalized_observations(eval_env):
        return "does not normalize observations, but training does; leave out eval_env"
    if _has_normalized_observations(eval_env) and not _has_normalized_observations(training_env):
        return "normalizes observations, but training does not; leave out eval_env"
    return None


def _has_normalized_observations(venv: VecEnv) -> bool:
    return _has_vec_normalized_observations(venv) or any(venv.env_is_wrapped(NormalizeObservation))


def _has_vec_normalized_observations(venv: VecEnv) -> bool:
    return any(isinstance(layer, VecNormalize) and layer.norm_obs for layer in iterate_vec_wrappers(venv))


def _has_normalized_returns(eval_env: VecEnv) -> bool:
    """Return whether returns are counted outside a ``VecNormalize`` that changes rewards."""
    layers = [*iterate_vec_wrappers(eval_env)]
    changes = [depth for depth, layer in enumerate(layers) if isinstance(layer, VecNormalize) and layer.norm_reward]
    monitors = [depth for depth, layer in enumerate(layers) if isinstance(layer, VecMonitor)]
    has_monitor = bool(monitors) or eval_env.env_is_wrapped(Monitor)[0]
    return bool(changes) and (not has_monitor or (bool(monitors) and monitors[0] < changes[-1]))


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
