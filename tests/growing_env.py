"""An environment with known returns: its k-th episode takes 10 steps and returns k times its `slope`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np


class Growing(gymnasium.Env[Any, Any]):
    """The fourth episode raises if it `fails`; every step takes `delay` seconds."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    episode = 0

    def __init__(self, slope=1.0, fails=False, delay=0.0):  # type: ignore[no-untyped-def] # searches try any value
        self.slope, self.fails, self.delay = slope, fails, delay

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        if self.fails and self.episode > 3:
            raise RuntimeError("the fourth episode is too much")
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.delay)
        self.steps += 1
        return np.zeros(1, np.float32), self.slope * self.episode / 10, self.steps == 10, False, {}


gymnasium.register("Growing-v0", Growing)
