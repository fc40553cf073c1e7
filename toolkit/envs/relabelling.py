"""Rewards of hindsight experience replay: the replay buffer has to compute those that the wrappers give.

``HerReplayBuffer`` asks the environments for the reward of another goal: the outermost wrapper that has
``compute_reward`` answers, or the environment itself. A wrapper further outside that changes rewards would put two
scales into one minibatch, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.config.schema import RunConfig
from toolkit.envs.replayable import RawMonitor, ReturnValueChecker, RewardGuard, iterate_layers
from toolkit.envs.reward_trace import RewardProbe
from toolkit.utils.errors import KeyPath, Problem

_CLASSES_THAT_KEEP_REWARDS = (
    *(gym.Wrapper, gym.ObservationWrapper, gym.ActionWrapper, TimeLimit, OrderEnforcing, PassiveEnvChecker),
    *(Monitor, RawMonitor, ReturnValueChecker, RewardProbe),
)
_STEPS_THAT_KEEP_REWARDS = {cls.step for cls in _CLASSES_THAT_KEEP_REWARDS}
_MODULES_THAT_KEEP_REWARDS = ("stable_baselines3.", "sb3_contrib.", "toolkit.")
_TRIED_STEPS = 100
_METHOD = "compute_reward"
_SIGNATURE = f"{_METHOD}(achieved_goal, desired_goal, info)"
Check = Callable[[RewardGuard], None]
_PLACE = "algorithm.params.replay_buffer_class"


def has_relabelled_rewards(config: ResolvedConfig) -> bool:
    """Return whether the algorithm's replay buffer computes the rewards of other goals."""
    buffer = config.components.algorithm.arguments.get("replay_buffer_class")
    return isinstance(buffer, type) and issubclass(buffer, HerReplayBuffer)


def guard_rewards(
    env: gym.Env[Any, Any], wrappers: Sequence[tuple[BoundComponent, gym.Env[Any, Any]]], config: RunConfig
) -> gym.Env[Any, Any]:
    """Let a step raise a :class:`ConfigError` when its reward is not that of ``compute_reward``.

    :param env: an environment with all its wrappers
    :param wrappers: the config's wrappers, innermost first, and what each returned
    :return: the environment, with a :class:`RewardGuard` around each wrapper whose class does not tell, or nothing
    :raises ConfigError: if a ``RewardWrapper`` has no ``compute_reward``, or nothing has one
    """
    layers: list[Any] = [*iterate_layers(env)]
    source = next((layer for layer in layers if _defines_method(layer)), None)
    if source is None:
        message = f"'{config.env.name}' has no {_SIGNATURE}, which {_PLACE} needs"
        raise config.make_error([Problem(("env", "id"), message)])

    def refuse(layer: gym.Env[Any, Any], message: str, hint: str) -> NoReturn:
        path: KeyPath = next((part.path for part, outer in wrappers if layer in iterate_layers(outer)), ("env", "id"))
        raise config.make_error([Problem(path, f"{type(layer).__name__}{message}", hint)])

    def insert(layer: gym.Env[Any, Any], check: Check | None = None) -> RewardGuard:
        nonlocal env
        guard = RewardGuard(layer, check)
        if layer is env:
            env = guard
        else:
            layers[layers.index(layer) - 1].env = guard
        return guard

    suspects = [layer for layer in layers[: layers.index(source)] if not _keeps_rewards(layer)]
    message = f" changes rewards, but {_PLACE} takes those of other goals from {type(source).__name__}"
    hint = f"give it a {_SIGNATURE} that returns its rewards, or leave it out"
    for layer in suspects:
        if isinstance(layer, gym.RewardWrapper):
            refuse(layer, message, hint)
    if isinstance(source, gym.Wrapper):
        base = insert(layers[-1]) if _defines_method(layers[-1]) else None
        guard = insert(source, _compare_with_method(base, partial(refuse, source)))
    elif suspects:
        guard = insert(source)
    else:
        return env
    for layer in reversed(suspects):
        guard = insert(layer, _compare_with_inside(guard, partial(refuse, layer, message, hint)))
    return env


def _compare_with_inside(inside: RewardGuard, refuse: Callable[[], NoReturn]) -> Check:
    """Return a check that refuses a reward that is not that of a guard further inside."""

    def check(guard: RewardGuard) -> None:
        if not np.array_equal(guard.reward, inside.reward, equal_nan=True):
            refuse()

    return check


def _compare_with_method(base: RewardGuard | None, refuse: Callable[[str, str], NoReturn]) -> Check:
    """Return a check that refuses a wrapper whose ``compute_reward`` does not give the reward of its step.

    It compares the first steps only, because the method may take long.

    :param base: around the environment; if that itself gives other rewards than it computes, a wrapper cannot do more
    """
    steps = iter(range(_TRIED_STEPS))

    def check(guard: RewardGuard) -> None:
        if next(steps, None) is None:
            return
        computed = _compute_reward(guard)
        if _is_close(guard.reward, computed) or (base and not _is_close(base.reward, _compute_reward(base))):
            return
        message = f".{_METHOD} returns {computed:g} for a step of reward {guard.reward:g}, and {_PLACE} would mix them"
        refuse(message, "let both return the same, also where other wrappers change rewards inside")

    return check


def _compute_reward(guard: RewardGuard) -> float:
    """Return what ``compute_reward`` gives for a guard's last step; as in SB3, it gets and returns arrays."""
    goals = [np.asarray(guard.observation[name])[None] for name in ("achieved_goal", "desired_goal")]
    return float(np.ravel(guard.env.get_wrapper_attr(_METHOD)(*goals, [guard.info]))[0])


def _is_close(reward: float, computed: float) -> bool:
    return bool(np.isclose(reward, computed, rtol=1e-4, atol=1e-6))


def check_vec_wrapper(wrapper: BoundComponent, config: RunConfig) -> None:
    """Refuse a vec wrapper of whose rewards the replay buffer may know nothing.

    :raises ConfigError: if it has a ``step_wait`` of its own, but no ``env_method`` that answers for its rewards
    """
    cls = wrapper.cls
    if not (isinstance(cls, type) and issubclass(cls, VecEnvWrapper)):
        return
    is_known = cls.step_wait.__module__.startswith(_MODULES_THAT_KEEP_REWARDS)
    if is_known or cls.env_method is not VecEnvWrapper.env_method:
        return
    message = f"{cls.__name__} may change rewards, but {_PLACE} takes those of other goals from the environments"
    hint = f"make it a wrapper under env.wrappers, with a {_SIGNATURE} if it changes rewards"
    raise config.make_error([Problem(wrapper.path, message, hint)])


def try_guarded_rewards(env: VecEnv) -> None:
    """Step environments that have a :class:`RewardGuard` a hundred times with random actions.

    :raises ConfigError: if a wrapper changes rewards without a ``compute_reward``
    """
    if not any(env.env_is_wrapped(RewardGuard)):
        return
    env.action_space.seed(0)
    env.reset()
    for _ in range(_TRIED_STEPS):
        env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))


def _defines_method(layer: gym.Env[Any, Any]) -> bool:
    """Return whether a layer has the method itself, and does not only pass on that of a layer inside."""
    if isinstance(layer, gym.Wrapper):
        return _METHOD in vars(layer) or hasattr(type(layer), _METHOD)
    return hasattr(layer, _METHOD)


def _keeps_rewards(layer: gym.Env[Any, Any]) -> bool:
    return type(layer).step in _STEPS_THAT_KEEP_REWARDS
