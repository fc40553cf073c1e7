"""Discrete spaces that start at 0."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class ZeroStart(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Count the values of discrete spaces from 0, as SB3 does, where the environment starts at another number.

    This concerns ``Discrete`` and ``MultiDiscrete``, as actions, as observations, and in a ``Dict`` of observations.
    Other spaces stay. The environment gets, and gives, its own numbers.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.action_space = _shift_space(env.action_space)
        observation_space = env.observation_space
        self._starts: dict[str | None, Any]
        if isinstance(observation_space, spaces.Dict):
            self._starts = {key: _get_start(part) for key, part in observation_space.spaces.items()}
            shifted = {key: _shift_space(part) for key, part in observation_space.spaces.items()}
            self.observation_space = spaces.Dict(shifted)
        else:
            self._starts = {None: _get_start(observation_space)}
            self.observation_space = _shift_space(observation_space)
        self._first_action = _get_start(env.action_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._shift(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment with its own number of the action."""
        if self._first_action is not None:
            action = action + self._first_action
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shift(observation), reward, terminated, truncated, info

    def _shift(self, observation: Any) -> Any:
        if None in self._starts:
            start = self._starts[None]
            return observation if start is None else observation - start
        shifted = {key: observation[key] - start for key, start in self._starts.items() if start is not None}
        return {**observation, **shifted}


def _get_start(space: Any) -> Any:
    """Return the number, or array of numbers, where a space starts; None if that is 0 or it is not discrete."""
    is_shifted = isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start)
    return space.start if is_shifted else None


def _shift_space(space: Any) -> Any:
    if _get_start(space) is None:
        return space
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec, dtype=space.dtype)
    return spaces.Discrete(int(space.n))
