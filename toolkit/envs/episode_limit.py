"""A limit of steps for greedy episodes: those of an environment that never ends would not end either."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from toolkit.utils.errors import RunError

EPISODE_LIMIT = 100_000  # steps


def limit_episode_steps(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Make an environment raise :class:`RunError` when an episode takes ``EPISODE_LIMIT`` steps."""
    limited: gym.Env[Any, Any] = _EpisodeLimit(env, EPISODE_LIMIT)
    return limited


class _EpisodeLimit(TimeLimit):
    """Counts the agent's steps. Monitor counts inside the wrappers, where a step can be a frame of a video game."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = super().step(action)
        if (self._elapsed_steps or 0) >= EPISODE_LIMIT:
            raise RunError(f"an episode did not end within {EPISODE_LIMIT:,} steps", "set env.max_episode_steps")
        return result
