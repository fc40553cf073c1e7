"""Wrappers that change the reward."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

_MAX_ANGLE = 0.2095  # radians; CartPole ends the episode beyond 12 degrees


class PolePotential(gym.Wrapper[Any, Any, Any, Any]):
    """Adds potential-based shaping: a step that rights CartPole's pole earns more, and the best policy stays the same.

    The reward of a step from s to s' grows by ``gamma * potential(s') - potential(s)``. The potential is ``weight``
    for an upright pole, falls linearly to 0 for a fallen one, and is 0 at every terminal state.

    Paper: Ng, Harada and Russell, "Policy invariance under reward transformations" (1999).

    :param weight: potential of the upright pole, in units of reward
    :param gamma: the algorithm's discount factor, from 0 to 1; a different one may change the best policy
    :raises ValueError: if gamma is out of range, or the observations are not CartPole's
    """

    def __init__(self, env: gym.Env[Any, Any], weight: float = 1.0, gamma: float = 0.99) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
        super().__init__(env)
        if env.observation_space.shape != (4,):
            raise ValueError(f"the observations {env.observation_space} are not CartPole's four numbers")
        self.weight = weight
        self.gamma = gamma
        self._potential = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and store its first potential."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._potential = self._potential_of(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and add the gain in potential to the reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        last_potential = self._potential
        self._potential = 0.0 if terminated else self._potential_of(observation)  # not 0 at a time limit
        gain = self.gamma * self._potential - last_potential
        return observation, float(reward) + gain, terminated, truncated, info

    def _potential_of(self, observation: Any) -> float:
        angle = abs(float(observation[2]))
        return self.weight * max(0.0, 1.0 - angle / _MAX_ANGLE)
