"""An environment with goals, for hindsight experience replay."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class GoalLine(gym.Env[Any, Any]):
    """Walk along a line from 5 to a goal between 0 and 10: 0 there, -1 elsewhere, for 15 steps."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Dict(
        {
            name: gym.spaces.Box(0, 10, (1,), np.float32)  # type: ignore[dict-item]
            for name in ("observation", "achieved_goal", "desired_goal")
        }
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.position = self.goal = self.n_steps = 0

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return -(np.abs(achieved_goal - desired_goal) > 0.5).astype(np.float32).reshape(-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.n_steps, self.goal = 5, 0, int(self.np_random.integers(11))
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        self.position = min(10, max(0, self.position + (1 if action else -1)))
        return self.observe(), -float(self.position != self.goal), False, self.n_steps >= 15, {}

    def observe(self) -> dict[str, Any]:
        position = np.array([self.position], np.float32)
        goal = np.array([self.goal], np.float32)
        return {"observation": position, "achieved_goal": position.copy(), "desired_goal": goal}


GOAL_LINE = "toolkit_tests/SharedGoalLine-v0"
if GOAL_LINE not in gym.registry:
    gym.register(GOAL_LINE, "goal_line:GoalLine")
