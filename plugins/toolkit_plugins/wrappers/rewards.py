"""Wrappers that shape rewards."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs


class _StepRewardWrapper(gym.RewardWrapper[Any, Any]):
    """Base of wrappers whose reward depends on the 0-based number of the step in its episode."""

    _step_number = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the step number."""
        self._step_number = -1
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and replace its reward by that of :meth:`_shape_reward`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step_number += 1
        shaped_reward = self._shape_reward(float(reward), terminated or truncated)
        return observation, shaped_reward, terminated, truncated, info

    def _shape_reward(self, reward: float, is_last_step: bool) -> float:
        raise NotImplementedError


class TerminalRewardClip(_StepRewardWrapper, RecordConstructorArgs):
    """Give +1 for an episode that lasts long enough, -1 for a shorter one, and 0 for every step before its end.

    Only the length of the episode counts. Termination and truncation are the same.

    :param success_steps: an episode that ends at this 0-based step or later is a success
    """

    def __init__(self, env: gym.Env[Any, Any], success_steps: int = 195) -> None:
        RecordConstructorArgs.__init__(self, success_steps=success_steps)
        super().__init__(env)
        self.success_steps = success_steps

    def _shape_reward(self, reward: float, is_last_step: bool) -> float:
        if not is_last_step:
            return 0.0
        return 1.0 if self._step_number >= self.success_steps else -1.0


class GradedTerminalReward(_StepRewardWrapper, RecordConstructorArgs):
    """Give ``(t - midpoint) * scale`` at the end of an episode, where t is its last 0-based step, and 0 before.

    With the defaults and a limit of 200 steps the reward is between -0.99 and 1.

    :param midpoint: the 0-based last step of an episode whose reward is 0
    :param scale: reward for each step beyond the midpoint
    :param keep_step_rewards: keep the rewards before the end, for example those of a wrapper further inside
    """

    def __init__(
        self, env: gym.Env[Any, Any], midpoint: int = 99, scale: float = 0.01, keep_step_rewards: bool = False
    ) -> None:
        RecordConstructorArgs.__init__(self, midpoint=midpoint, scale=scale, keep_step_rewards=keep_step_rewards)
        super().__init__(env)
        self.midpoint = midpoint
        self.scale = scale
        self.keep_step_rewards = keep_step_rewards

    def _shape_reward(self, reward: float, is_last_step: bool) -> float:
        if not is_last_step:
            return reward if self.keep_step_rewards else 0.0
        return (self._step_number - self.midpoint) * self.scale


class AnglePenalty(gym.RewardWrapper[Any, Any], RecordConstructorArgs):
    """Subtract ``scale * abs(observation[index])`` from the reward: by default the angle of CartPole's pole.

    :param scale: penalty per unit of the angle (radians in CartPole)
    :param index: index of the angle in the observation
    :raises ValueError: if the observations have no number of that index
    """

    def __init__(self, env: gym.Env[Any, Any], scale: float = 2.0, index: int = 2) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, index=index)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not 0 <= index < space.shape[0]:
            raise ValueError(f"the observations {space} have no number of index {index}")
        self.scale = scale
        self.index = index

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and subtract the penalty."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalty = self.scale * abs(float(observation[self.index]))
        return observation, float(reward) - penalty, terminated, truncated, info
