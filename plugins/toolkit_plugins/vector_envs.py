"""Gymnasium's environments as batches of arrays, which step in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray


class CartPole(CartPoleVectorEnv):
    """Gymnasium's vectorized CartPole, in which an episode that has ended waits for a reset with a mask.

    Gymnasium's own starts the next episode in the step after the end (``AutoresetMode.NEXT_STEP``). An agent would
    learn from that step, in which its action does nothing.

    :param num_envs: number of poles
    :param max_episode_steps: time limit
    :param sutton_barto_reward: whether a step's reward is 0, and -1 where the pole falls
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step all poles: Gymnasium's arithmetic, to the bit, without its checks of spaces and its resets.

        :raises AssertionError: if an action is neither 0 nor 1
        """
        if self.state is None or np.shape(action) != (self.num_envs,) or not ((action == 0) | (action == 1)).all():
            return super().step(action)  # which says what is wrong
        state = self.state
        _, x_dot, theta, theta_dot = state
        force = np.where(action, self.force_mag, -self.force_mag)
        sin, cos = np.sin(theta), np.cos(theta)
        temp = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        leverage = self.length * (4.0 / 3.0 - self.masspole * np.square(cos) / self.total_mass)
        theta_acc = (self.gravity * sin - cos * temp) / leverage
        x_acc = temp - self.polemass_length * theta_acc * cos / self.total_mass
        self.state = state = state + self.tau * np.array((x_dot, x_acc, theta_dot, theta_acc))
        self.steps += 1

        distances = np.abs(state)
        terminated = (distances[0] > self.x_threshold) | (distances[2] > self.theta_threshold_radians)
        truncated = self.steps >= self.max_episode_steps
        reward = -terminated.astype(np.float32) if self._sutton_barto_reward else np.ones(self.num_envs, np.float32)
        return state.T.astype(np.float32), reward, terminated, truncated, {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Reset all poles, or those of the mask ``options["reset_mask"]`` (num_envs,)."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None or self.state is None:
            return super().reset(seed=seed, options=options)
        self.state[:, mask] = self.np_random.uniform(self.low, self.high, size=(4, np.count_nonzero(mask)))
        self.steps[mask] = 0
        return self.state.T.astype(np.float32), {}
