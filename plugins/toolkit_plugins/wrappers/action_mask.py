"""Action masks for MaskablePPO."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class InfoActionMask(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Pass ``info["action_mask"]`` (as Taxi gives it) to MaskablePPO, which calls ``action_masks()``.

    :raises ValueError: at reset or step, if the environment gives no mask
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._mask: NDArray[np.bool_] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and store its mask."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._store_mask(info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and store its mask."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._store_mask(info)
        return observation, reward, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now, of shape (n_actions,)."""
        if self._mask is None:
            raise ValueError("there is no action mask before the first reset")
        return self._mask

    def _store_mask(self, info: dict[str, Any]) -> None:
        if "action_mask" not in info:
            raise ValueError(f"{self.env} gives no info['action_mask']")
        self._mask = np.array(info["action_mask"], dtype=np.bool_)
