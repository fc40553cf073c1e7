"""Where episodes start."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.monitor import Monitor

_ATTEMPTS = 100


class RandomFirstAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Start every episode with one random action that is not the agent's.

    The agent first sees what that action led to. As the innermost wrapper of a config it acts below SB3's Monitor, so
    that neither the return nor the length of an episode counts the action; a time limit of the environment's own does.
    An episode that the action ends is started again.

    :raises RuntimeError: at a reset, if that happens a hundred times in a row
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._actions = copy.deepcopy(env.action_space)  # the space itself is the algorithm's to draw from

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and act once; a seed also decides the actions of this and the following episodes."""
        if seed is not None:
            self._actions.seed(seed)
        below = self.env.env if isinstance(self.env, Monitor) else self.env
        self.env.reset(seed=seed, options=options)
        for _ in range(_ATTEMPTS):
            observation, _, terminated, truncated, info = below.step(self._actions.sample())
            if not (terminated or truncated):
                return observation, info
            self.env.reset(options=options)
        raise RuntimeError(f"each of {_ATTEMPTS} episodes in a row ended with its random first action")
