"""A success criterion that judges agents which explore in different amounts alike."""

from __future__ import annotations

import time

from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import open_greedy_env, play_greedy_episodes
from toolkit.training.callbacks import Success, SuccessCriterion
from toolkit.utils.data import compute_mean


class GreedySuccess(SuccessCriterion):
    """Stop when greedy episodes, played every so many timesteps, reach a mean raw return.

    Ten episodes come first. Only if their mean reaches the threshold, the others follow, and the mean of all counts.

    :param threshold: mean raw return to reach
    :param every: timesteps between two checks
    :param episodes: greedy episodes of a check, at least 10
    """

    FIRST = 10

    def __init__(self, threshold: float, every: int, episodes: int = 100) -> None:
        super().__init__(threshold, episodes)
        self.every = every
        self._next_check = every

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last training episodes, which explore; None before any."""
        return self.context.episodes.mean_return(self.episodes)

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next_check:
            return True
        self._next_check += self.every
        mean_return = self._play()
        if mean_return >= self.threshold:
            seconds = (time.time_ns() - self.model.start_time) / 1e9
            self.success = Success(len(self.context.episodes), self.num_timesteps, round(seconds, 3), mean_return)
        return self.success is None

    def _play(self) -> float:
        config = self.context.run.resolved_config
        seed = derived_seed(config.seed, "confirmation")
        with open_greedy_env(config, seed=seed, n_envs=1, wrap=limit_episode_steps) as env:
            returns = play_greedy_episodes(self.model, env, self.FIRST).returns
            if compute_mean(returns) >= self.threshold:
                returns += play_greedy_episodes(self.model, env, self.episodes - self.FIRST).returns
        return compute_mean(returns)
