"""Wrappers that shape rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

if TYPE_CHECKING:
    from toolkit.envs.batch_layers import BatchStep


class _VectorStepRewards(VectorWrapper[Any, Any, Any, Any, Any]):
    """Base of wrappers of a batch whose rewards depend on the 0-based numbers of the steps in their episodes."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._step_numbers = np.full(env.num_envs, -1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments, or those of a mask, and their step numbers."""
        self._step_numbers[(options or {}).get("reset_mask", slice(None))] = -1
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> BatchStep:
        """Step the environments and replace their rewards by those of :meth:`_shape_rewards`."""
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        self._step_numbers += 1
        rewards = self._shape_rewards(rewards.astype(np.float64), terminations | truncations)
        return observations, rewards, terminations, truncations, info

    def _shape_rewards(self, rewards: NDArray[np.float64], are_last_steps: NDArray[np.bool_]) -> NDArray[np.float64]:
        raise NotImplementedError


class VectorTerminalRewardClip(_VectorStepRewards):
    """:class:`TerminalRewardClip` for environments that step as one batch."""

    changeable_params = ("success_steps",)

    def __init__(self, env: VectorEnv[Any, Any, Any], success_steps: int = 195) -> None:
        super().__init__(env)
        self.success_steps = success_steps

    def _shape_rewards(self, rewards: NDArray[np.float64], are_last_steps: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(are_last_steps, np.where(self._step_numbers >= self.success_steps, 1.0, -1.0), 0.0)


class VectorGradedTerminalReward(_VectorStepRewards):
    """:class:`GradedTerminalReward` for environments that step as one batch."""

    changeable_params = ("midpoint", "scale")

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        midpoint: int = 99,
        scale: float = 0.01,
        keep_step_rewards: bool = False,
    ) -> None:
        super().__init__(env)
        self.midpoint = midpoint
        self.scale = scale
        self.keep_step_rewards = keep_step_rewards

    def _shape_rewards(self, rewards: NDArray[np.float64], are_last_steps: NDArray[np.bool_]) -> NDArray[np.float64]:
        step_rewards = rewards if self.keep_step_rewards else np.zeros_like(rewards)
        return np.where(are_last_steps, (self._step_numbers - self.midpoint) * self.scale, step_rewards)


class VectorAnglePenalty(VectorWrapper[Any, Any, Any, Any, Any]):
    """:class:`AnglePenalty` for environments that step as one batch."""

    changeable_params = ("scale",)

    def __init__(self, env: VectorEnv[Any, Any, Any], scale: float = 2.0, index: int = 2) -> None:
        super().__init__(env)
        _check_index(env.single_observation_space, index)
        self.scale = scale
        self.index = index

    def step(self, actions: Any) -> BatchStep:
        """Step the environments and subtract the penalties."""
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        penalties = self.scale * np.abs(observations[:, self.index].astype(np.float64))
        return observations, rewards.astype(np.float64) - penalties, terminations, truncations, info


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

    changeable_params = ("success_steps",)
    vector_form = VectorTerminalRewardClip

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

    changeable_params = ("midpoint", "scale")
    vector_form = VectorGradedTerminalReward

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

    changeable_params = ("scale",)
    vector_form = VectorAnglePenalty

    def __init__(self, env: gym.Env[Any, Any], scale: float = 2.0, index: int = 2) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, index=index)
        super().__init__(env)
        _check_index(env.observation_space, index)
        self.scale = scale
        self.index = index

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and subtract the penalty."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        penalty = self.scale * abs(float(observation[self.index]))
        return observation, float(reward) - penalty, terminated, truncated, info


def _check_index(space: gym.Space[Any], index: int) -> None:
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or not 0 <= index < space.shape[0]:
        raise ValueError(f"the observations {space} have no number of index {index}")
