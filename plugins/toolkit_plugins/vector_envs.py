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
        """Step all poles."""
        result = super().step(action)
        self.prev_done[:] = False
        return result

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
