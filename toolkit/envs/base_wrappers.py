"""Wrappers that are part of the environment: inside Monitor and inside the layers that ``gymnasium.make`` adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import HumanRendering, OrderEnforcing, PassiveEnvChecker, RenderCollection, TimeLimit

from toolkit.config.components import BoundComponent
from toolkit.config.schema import RunConfig

_SWITCH = "disable_env_checker"  # parameter of gymnasium.make
_ADDED_LAYERS = ((HumanRendering, RenderCollection), TimeLimit, OrderEnforcing, PassiveEnvChecker)  # outermost first

Built = list[tuple[BoundComponent, gym.Env[Any, Any]]]


def list_arguments(config: RunConfig) -> dict[str, Any]:
    """Return arguments of ``gymnasium.make`` for an environment that is complete only with its base wrappers."""
    return {_SWITCH: True} if config.env.base_wrappers and _SWITCH not in config.env.params else {}


def add_base_wrappers(
    env: gym.Env[Any, Any], wrappers: Sequence[BoundComponent], config: RunConfig
) -> tuple[gym.Env[Any, Any], Built]:
    """Put wrappers around an environment, inside the time limit and the other layers that ``gymnasium.make`` adds.

    They see the object that the environment's class or function has made. Wrappers that its registration adds, as
    ``additional_wrappers``, are inside them, and so is the time limit then. Gymnasium's checker is outside them: it
    checks what they return.

    :param env: made with the arguments of :func:`list_arguments`
    :param wrappers: innermost first
    :return: the environment, and each wrapper with the object that it has built
    :raises ConfigError: if a wrapper cannot be built
    """
    if not wrappers:
        return env, []
    outer: gym.Wrapper[Any, Any, Any, Any] | None = None
    inner = env
    for kinds in _ADDED_LAYERS:
        if isinstance(inner, kinds):
            outer, inner = inner, inner.env
    built: Built = []
    for wrapper in wrappers:
        inner = wrapper.build(inner)
        built.append((wrapper, inner))
    if _SWITCH not in config.env.params and _is_checked(env):
        inner = PassiveEnvChecker(inner)
    if outer is None:
        return inner, built
    outer.env = inner
    return env, built


def _is_checked(env: gym.Env[Any, Any]) -> bool:
    """Return whether the registration wants Gymnasium's checker."""
    spec = env.unwrapped.spec
    registered = gym.registry.get(spec.id) if spec else None
    return registered is None or not registered.disable_env_checker
