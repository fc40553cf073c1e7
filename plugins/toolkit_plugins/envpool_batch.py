"""EnvPool's environments, which step in threads of C++, as batches of arrays."""

from __future__ import annotations

from typing import Any

import envpool
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class EnvPoolBatch(VectorEnv[Any, Any, Any]):
    """Environments of EnvPool (Weng et al., 2022), in which an episode that has ended waits for a reset with a mask.

    EnvPool takes a seed only where environments are made. So a reset with a seed makes them anew.

    :param task_id: EnvPool's id
    :param num_envs: number of environments
    :param max_episode_steps: time limit; by default EnvPool's own
    :param params: parameters that EnvPool's task and Gymnasium's class have in common, such as ``ctrl_cost_weight``
        of ``HalfCheetah-v5``; the toolkit checks them against Gymnasium's class
    :raises TypeError: if an observation is no single array
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(self, task_id: str, num_envs: int, max_episode_steps: int | None = None, **params: Any) -> None:
        self.num_envs = num_envs
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        self._options = {"num_envs": num_envs, **limit, **params}
        self._task_id = task_id
        self._make_pool(seed=0)
        space = self._pool.observation_space
        if not isinstance(space, Box | Discrete):
            self._pool.close()
            raise TypeError(f"observations in one array are needed, not {type(space).__name__}")
        self.single_observation_space, self.single_action_space = space, self._pool.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _make_pool(self, seed: int) -> None:
        self._pool = envpool.make_gymnasium(self._task_id, seed=seed, **self._options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of the mask ``options["reset_mask"]`` (num_envs,)."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None:
            if seed is not None:
                self._pool.close()
                self._make_pool(seed % 2**31)
            observations, info = self._pool.reset()
            self._observations = np.array(observations)
            return self._observations, _select_numbers(info)
        indices = np.flatnonzero(mask)
        observations, info = self._pool.reset(indices)
        self._observations = self._observations.copy()
        self._observations[info["env_id"]] = observations
        return self._observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        observations, rewards, terminations, truncations, info = self._pool.step(actions)
        self._observations = np.array(observations)
        return self._observations, rewards, terminations, truncations, _select_numbers(info)

    def close(self, **kwargs: Any) -> None:
        """Stop the threads."""
        self._pool.close()


def _select_numbers(info: dict[str, Any]) -> dict[str, Any]:
    """Leave out what numbers environments and players."""
    return {name: values for name, values in info.items() if name not in ("env_id", "players", "elapsed_step")}
