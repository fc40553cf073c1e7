"""Random starts of episodes."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.monitor import Monitor

_MAX_ATTEMPTS = 100


class RandomFirstAction(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Take one random action at the start of every episode, before the agent acts.

    The agent's first observation is the one after that action. If this is the innermost wrapper of a config, it acts
    below SB3's Monitor. Then neither the return nor the length of an episode counts the action, but the environment's
    own time limit does. An episode that ends with the action starts again.

    :raises RuntimeError: at a reset, if a hundred episodes in a row end with the action
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._actions = copy.deepcopy(env.action_space)  # the algorithm draws from the space itself

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and act once; a seed also decides the actions of this and the following episodes."""
        if seed is not None:
            self._actions.seed(seed)
        below_monitor = self.env.env if isinstance(self.env, Monitor) else self.env
        self.env.reset(seed=seed, options=options)
        for _ in range(_MAX_ATTEMPTS):
            observation, _, terminated, truncated, info = below_monitor.step(self._actions.sample())
            if not (terminated or truncated):
                return observation, info
            self.env.reset(options=options)
        raise RuntimeError(f"{_MAX_ATTEMPTS} episodes in a row ended with their random first action")
