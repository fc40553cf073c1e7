"""When training has succeeded: by the mean return of the last episodes, or by their share of successes."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from toolkit.envs.episode_limit import limit_episode_steps
from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import open_greedy_env, play_greedy_episodes
from toolkit.training.callbacks import Success, SuccessCriterion
from toolkit.utils.data import compute_mean

_log = logging.getLogger("toolkit")


class _WindowCriterion(SuccessCriterion):
    """Judge the last training episodes whenever one counts, and then greedy ones if the config asks for that."""

    def __init__(self, threshold: float, episodes: int, min_timesteps: int, confirm_episodes: int) -> None:
        for name, value, minimum in (
            ("episodes", episodes, 1),
            ("min_timesteps", min_timesteps, 0),
            ("confirm_episodes", confirm_episodes, 0),
        ):
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {value}")
        super().__init__(threshold, episodes)
        self.min_timesteps = min_timesteps
        self.confirm_episodes = confirm_episodes
        self._seen = 0
        self._ask_again_at = 0

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` episodes that were judged; None before any."""
        return self.context.episodes.mean_return(self.episodes, end=self._seen)

    @abstractmethod
    def _judge_greedy(self, returns: Sequence[float], successes: Sequence[float]) -> float:
        """Return the value of greedy episodes.

        :param returns: raw return of each episode
        :param successes: success of each episode with ``info["is_success"]``, 0 to 1
        """

    def _on_step(self) -> bool:
        for episode in self.context.episodes[self._seen :]:
            self._seen += 1
            mean_return, value = self.mean_return, self.value
            if mean_return is not None and value is not None and self._is_met(value):
                self.success = Success(self._seen, self.num_timesteps, round(episode.seconds, 3), mean_return)
                return False
        return True

    def _is_met(self, value: float) -> bool:
        if self._seen < self.episodes or self.num_timesteps < self.min_timesteps:
            return False
        return value >= self.threshold and self._is_confirmed()

    def _is_confirmed(self) -> bool:
        if not self.confirm_episodes:
            return True
        if self._seen < self._ask_again_at:
            return False
        self._ask_again_at = self._seen + self.confirm_episodes
        config = self.context.run.resolved_config
        seed = derived_seed(config.seed, "confirmation")
        with open_greedy_env(config, seed=seed, n_envs=1, wrap=limit_episode_steps) as env:
            played = play_greedy_episodes(self.model, env, self.confirm_episodes)
        self.greedy_value = self._judge_greedy(played.returns, played.successes)
        return self.greedy_value >= self.threshold


class MeanReturnSuccess(_WindowCriterion):
    """Stop when the mean raw return of the last training episodes reaches a threshold.

    Episodes of all environments count in the order of their start. One counts once every episode that started before
    it, or in the same step, has ended. Otherwise short episodes would fill the window first. The window must be full.
    Gym's own definition of solved is 195 over 100 episodes for CartPole-v0.

    :param threshold: mean raw return to reach
    :param episodes: size of the window, at least 1
    :param min_timesteps: environment steps before which training never stops
    :param confirm_episodes: if not 0, the greedy policy must reach the threshold too, on average over this many
        episodes on its own environment. If it does not, training continues, and the next check comes after as
        many further training episodes
    """

    def __init__(
        self, threshold: float, episodes: int = 100, min_timesteps: int = 0, confirm_episodes: int = 0
    ) -> None:
        super().__init__(threshold, episodes, min_timesteps, confirm_episodes)

    def _judge_greedy(self, returns: Sequence[float], successes: Sequence[float]) -> float:
        return compute_mean(returns)


class SuccessRateCriterion(_WindowCriterion):
    """Stop when a share of the last training episodes are successes, as the environment says.

    The environment says so in ``info["is_success"]`` of an episode's last step, as robotics environments do. An
    episode that does not say is no success. Episodes count in the order of their start, as for the callback `success`.

    :param threshold: share of successes to reach, above 0 and at most 1
    :param episodes: size of the window, at least 1
    :param min_timesteps: environment steps before which training never stops
    :param confirm_episodes: if not 0, so many greedy episodes must reach the threshold too; see the callback `success`
    """

    measure = "success_rate"

    def __init__(
        self, threshold: float = 0.9, episodes: int = 100, min_timesteps: int = 0, confirm_episodes: int = 0
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
        super().__init__(threshold, episodes, min_timesteps, confirm_episodes)

    @property
    def value(self) -> float | None:
        """Share of successes among the last ``episodes`` episodes that were judged; None before any."""
        window = self.context.episodes[max(0, self._seen - self.episodes) : self._seen]
        return compute_mean([episode.is_success or 0.0 for episode in window]) if window else None

    def report(self) -> dict[str, Any]:
        """Return the ``success`` entry of ``result.json``."""
        return super().report() | {"success_rate": self.value}

    def _is_met(self, value: float) -> bool:
        if self._seen == self.episodes and all(episode.is_success is None for episode in self.context.episodes):
            message = "callback success_rate: none of %d episodes has info['is_success'], so none counts as a success"
            _log.warning(message, self.episodes)
        return super()._is_met(value)

    def _judge_greedy(self, returns: Sequence[float], successes: Sequence[float]) -> float:
        return sum(successes) / len(returns)
