"""What the agent is told about how it did."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

_FALLEN = 0.2095  # radians: beyond 12 degrees CartPole ends the episode


class PolePotential(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards each step by how much it rights CartPole's pole, without changing which policy is best.

    To the reward of a step from s to s' it adds ``gamma * potential(s') - potential(s)``. The potential is ``weight``
    for an upright pole, falls in a straight line to 0 where the pole has fallen, and is 0 at every terminal state.

    Paper: Ng, Harada and Russell, "Policy invariance under reward transformations" (1999).

    :param weight: potential of the upright pole, in units of reward
    :param gamma: the algorithm's own discount, 0 to 1; with another one the best policy may be another one
    :raises ValueError: if gamma is out of range, or the observations are not CartPole's four numbers
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
        """Start an episode, and take down the potential it starts with."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._potential = self._potential_of(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and add what the step has gained in potential."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = self._potential
        self._potential = 0.0 if terminated else self._potential_of(observation)  # a time limit is no terminal state
        gain = self.gamma * self._potential - before
        return observation, float(reward) + gain, terminated, truncated, info

    def _potential_of(self, observation: Any) -> float:
        angle = abs(float(observation[2]))
        return self.weight * max(0.0, 1.0 - angle / _FALLEN)
