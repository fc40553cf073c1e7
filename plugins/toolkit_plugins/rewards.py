"""Reward wrappers: what the agent is told about how it did."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs


class _StepCounter(gym.Wrapper[Any, Any, Any, Any]):
    """Knows the 0-based number of the step taken last in this episode."""

    _step_number = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and start counting anew."""
        self._step_number = -1
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, with the reward that :meth:`_reward` gives."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step_number += 1
        return observation, self._reward(float(reward), terminated or truncated), terminated, truncated, info

    def _reward(self, reward: float, ended: bool) -> float:
        raise NotImplementedError


class TerminalRewardClip(_StepCounter, RecordConstructorArgs):
    """+1 for an episode that lasted long enough, -1 for one that did not, 0 for every step before its end.

    Only how long the episode lasted counts, not whether it ended by termination, by truncation or by both at once.

    :param success_steps: an episode that ends at this 0-based step or later is a success
    """

    def __init__(self, env: gym.Env[Any, Any], success_steps: int = 195) -> None:
        RecordConstructorArgs.__init__(self, success_steps=success_steps)
        super().__init__(env)
        self.success_steps = success_steps

    def _reward(self, reward: float, ended: bool) -> float:
        if not ended:
            return 0.0
        return 1.0 if self._step_number >= self.success_steps else -1.0


class GradedTerminalReward(_StepCounter, RecordConstructorArgs):
    """At the end of an episode ``(t - midpoint) * scale``, where t is its last 0-based step; 0 before.

    With the defaults and 200 steps this runs from -0.99 to 1, in a straight line.

    :param midpoint: the 0-based last step of an episode that is worth nothing
    :param scale: reward for each step beyond it
    :param keep_step_rewards: leave the rewards before the end as they are, shaped by a wrapper further inside
    """

    def __init__(
        self, env: gym.Env[Any, Any], midpoint: int = 99, scale: float = 0.01, keep_step_rewards: bool = False
    ) -> None:
        RecordConstructorArgs.__init__(self, midpoint=midpoint, scale=scale, keep_step_rewards=keep_step_rewards)
        super().__init__(env)
        self.midpoint = midpoint
        self.scale = scale
        self.keep_step_rewards = keep_step_rewards

    def _reward(self, reward: float, ended: bool) -> float:
        if not ended:
            return reward if self.keep_step_rewards else 0.0
        return (self._step_number - self.midpoint) * self.scale


class AnglePenalty(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The environment's reward less ``scale * abs(observation[index])``, the lean of CartPole's pole in radians.

    :param scale: reward lost for each unit
    :param index: which number of the observation is the angle
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
        """Step the environment and take the penalty off."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalty = self.scale * abs(float(observation[self.index]))
        return observation, float(reward) - penalty, terminated, truncated, info
