"""Environments whose reward is a parameter, alone and as a batch."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

N_STEPS = 10


class Weighted(gym.Env[Any, Any]):
    """Episodes of 10 steps; each returns the weight, and ``info["is_success"]`` is whether that is at least 1."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, weight: float = 0.0, label: str = "easy", fixed: float = 0.0) -> None:
        self.weight = weight
        self.label = label
        self.double = 2 * fixed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        info = {"is_success": self.weight >= 1, "label": self.label}
        return self.observe(), self.weight, False, self.n_steps >= N_STEPS, info

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Lives(gym.Wrapper[Any, Any, Any, Any]):
    """Ends the agent's episode at each fourth step of a game, which continues; each step gives a bonus."""

    def __init__(self, env: gym.Env[Any, Any], bonus: float) -> None:
        super().__init__(env)
        self._bonus = bonus
        self.is_over = True
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if not self.is_over:
            return np.zeros(3, np.float32), {}
        self.n_steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        self.is_over = terminated or truncated
        return observation, float(reward) + self._bonus, terminated or self.n_steps % 4 == 0, truncated, info


class WeightedBatch(VectorEnv[Any, Any, Any]):
    """`Weighted`, all in one call; the first episodes but one are a step shorter."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    changeable_params = ("weight",)

    def __init__(self, num_envs: int, max_episode_steps: int = N_STEPS, weight: float = 0.0) -> None:
        self.num_envs, self.limit, self.weight = num_envs, max_episode_steps, weight
        self.single_observation_space, self.single_action_space = Weighted.observation_space, Weighted.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, int)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if options is None:
            self.steps[:] = 0
            self.steps[1:] = 1
        else:
            self.steps[options["reset_mask"]] = 0
        return self.observe(), {}

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        self.steps += 1
        rewards = np.broadcast_to(self.weight, self.num_envs).astype(np.float64)
        return self.observe(), rewards, np.zeros(self.num_envs, bool), self.steps >= self.limit, {}

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, (self.num_envs, 3)).astype(np.float32)
