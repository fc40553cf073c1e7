"""Checks of how the parts of a config fit together: what training would silently ignore, or would fail at later."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import NormalizeReward
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from toolkit.config.components import BoundComponent, find_doubts
from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import make_env
from toolkit.envs.relabelling import has_relabelled_rewards
from toolkit.training.callbacks import EvaluationCallback, RunCallback, RunPlan, SuccessCriterion
from toolkit.utils.callbacks import iterate_nested
from toolkit.utils.errors import ConfigError, KeyPath, Problem, describe_error
from toolkit.utils.log import log_problems
from toolkit.utils.vec_envs import iterate_vec_wrappers

_ALGORITHM_PARAMS = ("algorithm", "params")
_PASSES_ON = (VecCheckNan, VecMonitor, VecVideoRecorder)  # change neither observations nor rewards
_COUNTS_CALLS = ((EvalCallback, "eval_freq"), (CheckpointCallback, "save_freq"))
_TRANSPOSE = "stable_baselines3.common.vec_env:VecTransposeImage"


def log_config_warnings(config: ResolvedConfig) -> None:
    """Log what :func:`find_config_warnings` finds, each in one line with its file and line."""
    log_problems(config.make_error(find_config_warnings(config)))


def find_config_warnings(config: ResolvedConfig) -> list[Problem]:
    """Find values that a valid config gives and training ignores, or that keep it from learning. Nothing is built."""
    values = _Values(config)
    return [
        *_find_rollout_problems(values),
        *find_obstacles_to_learning(config),
        *_find_early_hindsight(values),
        *_find_other_gammas(values),
        *_find_wrapper_order_problems(values),
        *_find_idle_callbacks(values),
        *_find_useless_keys(values),
        *find_doubts(config, config.components),
    ]


def find_obstacles_to_learning(config: ResolvedConfig) -> list[Problem]:
    """Find values with which networks never change; :func:`find_config_warnings` has them too."""
    values = _Values(config)
    return [*_find_zeros(values), *_find_late_updates(values)]


@dataclass(frozen=True)
class _Values:
    """A config with the values that decide when its training does what."""

    config: ResolvedConfig

    @property
    def algorithm(self) -> dict[str, Any]:
        """The algorithm's arguments and defaults."""
        return self.config.components.algorithm.arguments_with_defaults

    @property
    def is_off_policy(self) -> bool:
        return issubclass(self.config.components.algorithm.cls, OffPolicyAlgorithm)

    @cached_property
    def rollout(self) -> tuple[str, int] | None:
        """The parameter that sizes a rollout, and its timesteps; ``None`` if no number of timesteps is fixed."""
        name = "train_freq" if self.is_off_policy else "n_steps"
        size = self.algorithm.get(name)
        if isinstance(size, tuple | list) and size[1:] == type(size)(["step"]):
            size = size[0]
        is_known = self.is_off_policy or issubclass(self.config.components.algorithm.cls, OnPolicyAlgorithm)
        return (name, size * self.config.env.n_envs) if is_known and isinstance(size, int) and size > 0 else None

    @cached_property
    def timesteps(self) -> int:
        """The timestep at which training ends: SB3 completes the last rollout."""
        wanted = self.config.timesteps
        return wanted if self.rollout is None else -(-wanted // self.rollout[1]) * self.rollout[1]


def _find_rollout_problems(values: _Values) -> Iterator[Problem]:
    wanted, n_envs = values.config.timesteps, values.config.env.n_envs
    if values.rollout and values.rollout[1] > wanted:
        name, size = values.rollout
        message = f"a rollout is {name} times env.n_envs, {size:,} timesteps: training ends there, not at {wanted:,}"
        yield Problem((*_ALGORITHM_PARAMS, name), message, f"set it to at most {max(wanted // n_envs, 1):,}")


def _find_zeros(values: _Values) -> Iterator[Problem]:
    """Find parameters of 0 with which no update is made, or none changes anything."""
    effects = {"learning_rate": "no update changes a weight", "max_grad_norm": "every gradient is removed"}
    if values.is_off_policy:
        effects |= {"gradient_steps": "no update is made", "tau": "the target network never changes"}
    for name, effect in effects.items():
        value = values.algorithm.get(name)
        if isinstance(value, int | float) and value == 0:
            yield Problem((*_ALGORITHM_PARAMS, name), f"is 0: {effect}", "set it above 0")


def _find_late_updates(values: _Values) -> Iterator[Problem]:
    """Find the parameter that delays updates beyond the end, or else that of the target network."""
    arguments, wanted, end = values.algorithm, values.config.timesteps, values.timesteps
    if not values.is_off_policy:
        return
    starts = arguments.get("learning_starts")
    # SB3's default is beyond many a short trial run, so only a written one is a mistake
    interval = values.config.components.algorithm.arguments.get("target_update_interval")
    hint = "lower it, or increase timesteps"
    has_replacement = arguments.get("sample_with_replacement", True)
    n_needed = 0 if has_replacement else arguments["batch_size"] * values.config.env.n_envs
    if isinstance(starts, int) and starts >= end:
        effect = ": nothing is learnt" if values.rollout else ""  # else the last rollout may be long
        message = f"updates begin after timestep {starts:,}, but timesteps is {wanted:,}{effect}"
        yield Problem((*_ALGORITHM_PARAMS, "learning_starts"), message, hint)
    elif values.rollout and n_needed > end:
        message = f"updates need {n_needed:,} timesteps, but timesteps is {wanted:,}: nothing is learnt"
        yield Problem((*_ALGORITHM_PARAMS, "batch_size"), message, hint)
    elif values.rollout and "exploration_initial_eps" in arguments and isinstance(interval, int) and interval > end:
        message = f"{interval:,} is beyond the run's {wanted:,} timesteps: the target network is never updated"
        yield Problem((*_ALGORITHM_PARAMS, "target_update_interval"), message, hint)


def _find_early_hindsight(values: _Values) -> Iterator[Problem]:
    """Find updates that may begin before an episode has ended: hindsight cannot sample then."""
    config, starts = values.config, values.algorithm.get("learning_starts")
    has_demonstrations = any(callback.name == "demonstrations" for callback in config.callbacks)
    if not has_relabelled_rewards(config) or has_demonstrations or not values.rollout or not isinstance(starts, int):
        return
    first = (starts // values.rollout[1] + 1) * values.rollout[1]
    limit = config.env.max_episode_steps or getattr(gym.registry.get(config.env.name), "max_episode_steps", None)
    if first < (limit or 1) * config.env.n_envs or (limit is None and starts == 0):
        message = (
            f"updates begin at timestep {first:,}, perhaps before an episode has ended, "
            "but HerReplayBuffer samples from completed episodes"
        )
        steps = f"{limit * config.env.n_envs:,}" if limit else "the steps of an episode times env.n_envs"
        yield Problem((*_ALGORITHM_PARAMS, "learning_starts"), message, f"set it to {steps} or more")


def _find_other_gammas(values: _Values) -> Iterator[Problem]:
    """Find wrappers that divide rewards by the deviation of a return with another discount than the algorithm's."""
    gamma = values.algorithm.get("gamma")
    components = values.config.components
    for component in (*components.base_wrappers, *components.wrappers, *components.vec_wrappers):
        arguments = component.arguments if _is(component, VecNormalize) else component.arguments_with_defaults
        own_gamma = arguments.get("gamma")
        if not _is(component, NormalizeReward, VecNormalize) or None in (gamma, own_gamma) or gamma == own_gamma:
            continue
        if component.get_argument("norm_reward") is False:
            continue
        message = f"{own_gamma} differs from algorithm.params.gamma, {gamma}: rewards are scaled for another discount"
        hint = "remove it, to follow the algorithm's" if _is(component, VecNormalize) else "set both to one value"
        yield Problem((*component.path, "params", "gamma"), message, hint)


def _find_wrapper_order_problems(values: _Values) -> Iterator[Problem]:
    """Find vec wrappers outside ``VecNormalize`` whose place changes what is learnt."""
    vec_wrappers = values.config.components.vec_wrappers
    normalizer = _find_normalizer(values.config)
    if normalizer is None:
        return
    for component in vec_wrappers[vec_wrappers.index(normalizer) + 1 :]:
        if not values.is_off_policy and _is(component, VecFrameStack) and normalizer.get_argument("norm_obs"):
            message = f"normalizes single frames, before '{component.name}' stacks them"
            yield Problem(normalizer.path, message, f"put it after '{component.name}' to normalize whole stacks")
        elif values.is_off_policy and not _is(component, *_PASSES_ON, VecFrameStack, VecTransposeImage):
            message = f"is outside '{normalizer.name}': the replay buffer does not hold what it changes"
            yield Problem(component.path, message, f"put it before '{normalizer.name}'")


def _find_idle_callbacks(values: _Values) -> Iterator[Problem]:
    wanted, end, callbacks = values.config.timesteps, values.timesteps, values.config.components.callbacks
    has_criterion = any(_is(callback, SuccessCriterion) for callback in callbacks)
    for callback in callbacks:
        for name, unit in _list_intervals(callback, values.config.env.n_envs):
            value = callback.get_argument(name)
            if values.rollout and value is not None and value * unit > end:
                text = f"{value:,}" if unit == 1 else f"{value:,} calls take {value * unit:,} timesteps, which"
                message = f"{text} is beyond the run's {wanted:,} timesteps: it has no effect"
                yield Problem((*callback.path, "params", name), message, "lower it, or increase timesteps")
        if callback.name == "record_video" and callback.get_argument("on_success") and not has_criterion:
            message = "has no effect without a success criterion"
            yield Problem((*callback.path, "params", "on_success"), message, "add the callback 'success'")


def _list_intervals(callback: BoundComponent, n_envs: int) -> Iterator[tuple[str, int]]:
    """List the parameters of a callback that delay what it does, and how many timesteps each unit of them takes."""
    for cls, name in _COUNTS_CALLS:
        if _is(callback, cls):
            yield name, n_envs
    if _is(callback, EveryNTimesteps):
        yield "n_steps", 1
    if _is(callback, SuccessCriterion):
        yield "min_timesteps", 1
    if callback.name == "record_video" or _is(callback, EvaluationCallback):
        yield "every_timesteps", 1


def _find_useless_keys(values: _Values) -> Iterator[Problem]:
    env = values.config.env
    if env.step_timeout is not None and env.vec_env != "subproc":
        yield Problem(("env", "step_timeout"), "has no effect in this process", "set env.vec_env to subproc")


def refuse_unfit_normalization(config: ResolvedConfig, model: BaseAlgorithm) -> None:
    """Refuse ``VecNormalize`` inside wrappers that change the space of observations, if there is a replay buffer.

    SB3's replay buffer stores the observations of the outermost ``VecNormalize`` before it normalizes them.

    :raises ConfigError: if the algorithm is off-policy and another wrapper outside changes the space
    """
    normalizer = _find_normalizer(config)
    if normalizer is None or not isinstance(model, OffPolicyAlgorithm):
        return
    for layer in iterate_vec_wrappers(model.get_env()):
        if isinstance(layer, VecNormalize):
            return
        if layer.observation_space != layer.venv.observation_space:
            raise config.make_error([_describe_unfit_order(config, normalizer, type(layer))])


def refuse_missing_masks(config: ResolvedConfig, model: BaseAlgorithm) -> None:
    """Refuse an algorithm that asks for masks of actions where no environment has any.

    :raises ConfigError: if it is ``MaskablePPO``, or like it
    """
    parameter, env = inspect.signature(model.learn).parameters.get("use_masking"), model.get_env()
    if parameter is not None and parameter.default is True and env is not None and not env.has_attr("action_masks"):
        message = f"'{config.algorithm.name}' needs action_masks(), which '{config.env.name}' does not have"
        hint = "add the base wrapper sb3_contrib.common.wrappers:ActionMasker, or 'info_action_mask'"
        raise config.make_error([Problem(("algorithm", "name"), message, hint)])


def find_callback_problems(path: KeyPath, callback: BaseCallback, plan: RunPlan, name: str) -> list[Problem]:
    """Return what keeps a callback, and those that it holds, from their work, as their ``check_run`` says.

    :param path: where the callback is
    :param name: that the callback has there
    """
    problems = []
    for nested in iterate_nested(callback):
        if not isinstance(nested, RunCallback):
            continue
        try:
            nested.check_run(plan)
        except ConfigError as error:
            for problem in error.problems:
                inner = problem.path if nested is callback else ()  # the config's path of a nested one is not known
                problems.append(replace(problem, path=(*path, *inner)))
        except Exception as error:
            nested_name = name if nested is callback else type(nested).__name__
            problems.append(Problem(path, f"'{nested_name}' does not fit: {describe_error(error)}"))
    return problems


def refuse_lone_environment(config: ResolvedConfig) -> None:
    """Refuse an environment that a process can have only once, if a callback plays episodes beside training.

    :raises ConfigError: if the environment cannot be built while the training's own exist in this process
    """
    plays = [
        callback
        for callback in config.components.callbacks
        if callback.name == "record_video"
        or issubclass(callback.cls, EvaluationCallback)
        or callback.get_argument("confirm_episodes")
    ]
    if not plays or config.env.vec_env == "subproc":
        return
    try:
        make_env(config, config.components.env, config.components.base_wrappers, config.components.wrappers).close()
    except ConfigError as error:
        raise describe_second_environment(config, plays[0], error) from error


def describe_second_environment(config: ResolvedConfig, callback: BoundComponent, error: ConfigError) -> ConfigError:
    """Return the error about an environment that cannot be built for a callback, beside those of training."""
    cause = describe_error(error.__cause__ or error)
    message = f"'{callback.name}' needs a second environment in the training process, which fails: {cause}"
    hint = "" if config.env.vec_env == "subproc" else "set env.vec_env to subproc"
    return config.make_error([Problem(callback.path, message, hint)])


def _describe_unfit_order(config: ResolvedConfig, normalizer: BoundComponent, outside: type[VecEnvWrapper]) -> Problem:
    names = [component.name for component in config.components.vec_wrappers if component.cls is outside]
    name = names[-1] if names else outside.__name__
    message = f"the replay buffer of '{config.algorithm.name}' needs it outside '{name}', which changes observations"
    hint = f"put '{normalizer.name}' after '{name}'" if names else f"put '{_TRANSPOSE}' before '{normalizer.name}'"
    return Problem(normalizer.path, message, hint)


def _find_normalizer(config: ResolvedConfig) -> BoundComponent | None:
    """Return the outermost ``VecNormalize``, which is the one that SB3 uses."""
    normalizers = [component for component in config.components.vec_wrappers if _is(component, VecNormalize)]
    return normalizers[-1] if normalizers else None


def _is(component: BoundComponent, *classes: type[Any]) -> bool:
    return issubclass(component.cls, classes)
