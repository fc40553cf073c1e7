"""When training has succeeded: by the mean return of the last episodes, or by their share of successes."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from toolkit.envs.factory import derived_seed
from toolkit.evaluation.rollout import play_on_one_env
from toolkit.training.callbacks import RunPlan, Success, SuccessCriterion
from toolkit.training.evaluations import RecordedEvaluation
from toolkit.utils.data import DEFAULT_WINDOW, compute_mean
from toolkit.utils.errors import ConfigError, Problem

_log = logging.getLogger("toolkit")


class _WindowCriterion(SuccessCriterion):
    """Judge the last training episodes whenever one counts, and then greedy ones if the config asks for that.

    With a label, judge each evaluation under it instead.
    """

    def __init__(
        self, threshold: float, episodes: int | None, min_timesteps: int, confirm_episodes: int, evaluation: str | None
    ) -> None:
        for name, value, minimum in (
            ("episodes", episodes, 1),
            ("min_timesteps", min_timesteps, 0),
            ("confirm_episodes", confirm_episodes, 0),
        ):
            if value is not None and value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {value}")
        if evaluation is not None and episodes is not None:
            raise ValueError("episodes cannot be set here: those of the callback 'evaluate' count")
        super().__init__(threshold, episodes or DEFAULT_WINDOW, evaluation)
        self.min_timesteps = min_timesteps
        self.confirm_episodes = confirm_episodes
        self._seen = 0
        self._ask_again_at = 0
        self._judged_timestep = -1  # of the last evaluation

    def check_run(self, plan: RunPlan) -> None:
        """Check that an evaluation before this callback has the label.

        :raises ConfigError: if not
        """
        super().check_run(plan)
        if self.evaluation is None:
            return
        callbacks = [*plan.callbacks]
        if callbacks.index(plan.require_evaluation(self.evaluation)) > callbacks.index(self):
            message = f"the evaluation '{self.evaluation}' comes later, so its results would be judged a step late"
            hint = "name the callback that evaluates before this one"
            raise ConfigError([Problem(("params", "evaluation"), message, hint)])

    @property
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` episodes that were judged, or of the latest evaluation."""
        if self.evaluation is not None:
            return self._latest.mean_return if self._latest else None
        return self.context.episodes.mean_return(self.episodes, end=self._seen)

    @property
    def _latest(self) -> RecordedEvaluation | None:
        return self.context.evaluations.latest(self.evaluation or "")

    def report(self) -> dict[str, Any]:
        """Return the ``success`` entry of ``result.json``."""
        n_episodes = len(self._latest.returns) if self.evaluation is not None and self._latest else self.episodes
        return super().report() | {"episodes": n_episodes}

    @abstractmethod
    def _judge_greedy(self, returns: Sequence[float], successes: Sequence[float]) -> float:
        """Return the value of greedy episodes.

        :param returns: raw return of each episode
        :param successes: success of each episode with ``info["is_success"]``, 0 to 1
        """

    def _on_step(self) -> bool:
        if self.evaluation is not None:
            return self._judge_evaluation()
        for episode in self.context.episodes[self._seen :]:
            self._seen += 1
            mean_return, value = self.mean_return, self.value
            if mean_return is not None and value is not None and self._is_met(value):
                self.success = Success(self._seen, self.num_timesteps, round(episode.seconds, 3), mean_return)
                return False
        return True

    def _judge_evaluation(self) -> bool:
        latest = self.context.evaluations.latest_final(self.evaluation or "")
        if latest is None or latest.timestep == self._judged_timestep:
            return True
        value = self.value
        if value is None and self._judged_timestep < 0:
            message = "callback success_rate: no episode of the evaluation '%s' has info['is_success']: none counts"
            _log.warning(message, self.evaluation)
        self._judged_timestep = latest.timestep
        is_late_enough = self.num_timesteps >= self.min_timesteps
        if value is not None and value >= self.threshold and is_late_enough and self._reaches_threshold_greedily():
            seconds = (time.time_ns() - self.model.start_time) / 1e9
            self.success = Success(
                len(self.context.episodes), self.num_timesteps, round(seconds, 3), latest.mean_return
            )
        return self.success is None

    def _is_met(self, value: float) -> bool:
        first = self.context.first_episode_of_task
        if (
            first is None
            or self._seen - first < self.episodes
            or self.num_timesteps < self.min_timesteps
            or value < self.threshold
        ):
            return False
        if self._seen < self._ask_again_at:
            return False
        self._ask_again_at = self._seen + self.confirm_episodes
        return self._reaches_threshold_greedily()

    def _reaches_threshold_greedily(self) -> bool:
        if not self.confirm_episodes:
            return True
        config = self.context.run.resolved_config
        play = self.context.evaluations.find_play_greedily(self.evaluation or "")
        play = play or partial(play_on_one_env, self.model, config)
        played = play(self.confirm_episodes, derived_seed(config.seed, "confirmation"))
        self.greedy_value = self._judge_greedy(played.returns, played.successes)
        return self.greedy_value >= self.threshold


class MeanReturnSuccess(_WindowCriterion):
    """Stop when the mean raw return of the last training episodes reaches a threshold.

    Episodes of all environments count in the order of their start. One counts once every episode that started before
    it, or in the same step, has ended. Otherwise short episodes would fill the window first. The window must be full.
    Gym's own definition of solved is 195 over 100 episodes for CartPole-v0.

    :param threshold: mean raw return to reach
    :param episodes: size of the window, at least 1; by default 100
    :param min_timesteps: environment steps before which training never stops
    :param confirm_episodes: if not 0, the greedy policy must reach the threshold too, on average over this many
        episodes on its own environment. If it does not, training continues, and the next check comes after as
        many further training episodes
    :param evaluation: label of an `evaluate` before it: its episodes count instead of training ones, and its
        environment confirms
    """

    def __init__(
        self,
        threshold: float,
        episodes: int | None = None,
        min_timesteps: int = 0,
        confirm_episodes: int = 0,
        evaluation: str | None = None,
    ) -> None:
        super().__init__(threshold, episodes, min_timesteps, confirm_episodes, evaluation)

    def _judge_greedy(self, returns: Sequence[float], successes: Sequence[float]) -> float:
        return compute_mean(returns)


class SuccessRateCriterion(_WindowCriterion):
    """Stop when a share of the last training episodes are successes, as the environment says.

    The environment says so in ``info["is_success"]`` of an episode's last step, as robotics environments do. An
    episode that does not say is no success. Episodes count in the order of their start, as for the callback `success`.

    :param threshold: share of successes to reach, above 0 and at most 1
    :param episodes: size of the window, at least 1; by default 100
    :param min_timesteps: environment steps before which training never stops
    :param confirm_episodes: if not 0, so many greedy episodes must reach the threshold too; see the callback `success`
    :param evaluation: label of an `evaluate` before it: its episodes count instead of training ones, and its
        environment confirms
    """

    measure = "success_rate"

    def __init__(
        self,
        threshold: float = 0.9,
        episodes: int | None = None,
        min_timesteps: int = 0,
        confirm_episodes: int = 0,
        evaluation: str | None = None,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
        super().__init__(threshold, episodes, min_timesteps, confirm_episodes, evaluation)

    @property
    def value(self) -> float | None:
        """Share of successes among the last ``episodes`` episodes that were judged, or of the latest evaluation."""
        if self.evaluation is not None:
            return self._latest.success_rate if self._latest else None
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
