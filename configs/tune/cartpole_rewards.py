"""Reward wrappers for CartPole that cartpole_rewards.yaml uses besides the registered ones."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class Upright(gym.Wrapper[Any, Any, Any, Any]):
    """Reward the agent for keeping the pole upright.

    :param weight: reward lost for each radian
    """

    def __init__(self, env: gym.Env[Any, Any], weight: float = 1.0) -> None:
        super().__init__(env)
        self.weight = weight

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return the step with its changed reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward) - self.weight * abs(float(observation[2])), terminated, truncated, info


class ScaledReward(gym.RewardWrapper[Any, Any]):
    """Multiply the reward by a factor."""

    def __init__(self, env: gym.Env[Any, Any], factor: float) -> None:
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: Any) -> float:
        """Return the scaled reward."""
        return float(reward) * self.factor
