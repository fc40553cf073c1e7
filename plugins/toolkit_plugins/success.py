"""When training has succeeded."""

from __future__ import annotations

from collections import deque

import numpy as np

from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.evaluation.rollout import limit_episode_steps, play_greedy_episodes
from toolkit.training.callbacks import Success, SuccessCriterion


class MeanReturnSuccess(SuccessCriterion):
    """Stop when the mean raw return of the last training episodes reaches a threshold.

    Counted over a full window of completed episodes, from all environments; episodes that end in the same step count
    in the order of their environments. Gym's own definition of solved is 195 over 100 episodes for CartPole-v0.

    :param threshold: mean raw return to reach
    :param episodes: size of the window, at least 1
    :param min_timesteps: not before this many environment steps
    :param confirm_episodes: if not 0, the greedy policy must reach the threshold too, on average over this many
        episodes on an environment of its own; if it does not, training goes on and it is asked again after as many
        further training episodes
    """

    def __init__(
        self, threshold: float, episodes: int = 100, min_timesteps: int = 0, confirm_episodes: int = 0
    ) -> None:
        for name, value, least in (
            ("episodes", episodes, 1),
            ("min_timesteps", min_timesteps, 0),
            ("confirm_episodes", confirm_episodes, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        super().__init__(threshold, episodes)
        self.min_timesteps = min_timesteps
        self.confirm_episodes = confirm_episodes
        self._window: deque[float] = deque(maxlen=episodes)
        self._seen = 0
        self._ask_again_at = 0

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` completed episodes, or of as many as there are."""
        return float(np.mean(self._window)) if self._window else None

    def _on_step(self) -> bool:
        for episode in self.context.episodes[self._seen :]:
            self._window.append(episode.raw_return)
            self._seen += 1
            if self._is_met():
                self._succeed(episode.seconds)
                return False
        return True

    def _is_met(self) -> bool:
        if len(self._window) < self.episodes or self.num_timesteps < self.min_timesteps:
            return False
        return float(np.mean(self._window)) >= self.threshold and self._is_confirmed()

    def _is_confirmed(self) -> bool:
        if not self.confirm_episodes:
            return True
        if self._seen < self._ask_again_at:
            return False
        self._ask_again_at = self._seen + self.confirm_episodes
        config = self.context.run.resolved_config
        env = make_vec_env(config, seed=derived_seed(config.seed, "confirmation"), n_envs=1, wrap=limit_episode_steps)
        try:
            returns = play_greedy_episodes(self.model, env, self.confirm_episodes)
        finally:
            env.close()
        return float(np.mean(returns)) >= self.threshold

    def _succeed(self, seconds: float) -> None:
        mean_return = float(np.mean(self._window))
        self.success = Success(self._seen, self.num_timesteps, round(seconds, 3), mean_return)
