"""An environment whose observations, rewards and ends are random, to fill buffers with."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium import spaces

VECTOR = spaces.Box(-1, 1, (3,))


class RandomEnv(gym.Env[Any, Any]):
    """An environment with random observations and ends, and with rewards that are `reward` on average."""

    def __init__(self, observation_space: spaces.Space[Any] = VECTOR, reward: float = 0.0) -> None:
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = spaces.Discrete(4)
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        terminated, truncated = (bool(chance < 0.1) for chance in self.np_random.random(2))
        reward = self.reward + float(self.np_random.normal())
        return self.observation_space.sample(), reward, terminated, truncated, {}
