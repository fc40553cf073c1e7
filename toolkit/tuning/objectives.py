"""Objectives: the score of a training, and the learning curve that pruners compare while it trains.

Both use the raw returns of training episodes. These need no evaluation, and stay comparable when reward wrappers are
searched.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

from toolkit.config.load import ResolvedConfig
from toolkit.training.callbacks import SuccessCriterion, TrainingContext
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import mean_of_last
from toolkit.utils.errors import TuningError


class Objective(ABC):
    """The score of a training run with one seed.

    :ivar direction: whether a larger or a smaller score is better
    :ivar title: name of the score in texts and figures
    """

    direction: Literal["maximize", "minimize"]
    title: str

    def adapt_config(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return the config that trials train: by default the same."""
        return config

    @abstractmethod
    def current_value(self, context: TrainingContext) -> float | None:
        """Return the current value of the learning curve. Larger is better. ``None`` before the first episode."""

    @abstractmethod
    def final_value(self, run: RunDirectory) -> float:
        """Return the last value of the learning curve.

        :raises TuningError: if the run has none
        """

    @abstractmethod
    def score(self, run: RunDirectory, n_averaged: int) -> float:
        """Return the score of a run that has ended.

        :param n_averaged: number of runs whose mean the score enters
        :raises TuningError: if the run has none
        """

    def bound_score(self, timesteps: float) -> float | None:
        """Return a score that a run cannot beat any more, after training for ``timesteps`` without an end.

        :return: ``None``, the default, if such a run may still reach any score
        """
        return None


class MeanReturn(Objective):
    """The mean raw return of the last 100 training episodes, after all timesteps of the config.

    Trials train without the success criterion. A criterion over fewer episodes would end a training early, and the
    mean over 100 episodes would then be the lower the earlier that happens.
    """

    direction = "maximize"
    title = "mean return of the last 100 training episodes"

    def adapt_config(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return the config without its success criterion."""
        return config.without_callbacks(lambda callback: issubclass(callback.cls, SuccessCriterion))

    def current_value(self, context: TrainingContext) -> float | None:
        """Return the mean return of the last 100 episodes so far."""
        return context.episodes.mean_return()

    def final_value(self, run: RunDirectory) -> float:
        """Return the score."""
        return self.score(run, n_averaged=1)

    def score(self, run: RunDirectory, n_averaged: int) -> float:
        """Return the mean return of the last 100 episodes, or of all if there are fewer."""
        return _require_mean(mean_of_last([raw_return for raw_return, _ in run.episodes]), run)


class TimestepsToSuccess(Objective):
    """The number of timesteps until a run meets the config's success criterion.

    A run that does not meet it scores all its timesteps, times the number of averaged runs, times
    ``1 + d / (d + max(1, |threshold|))``, where ``d`` is how far the criterion's value is below its threshold.
    So one failure makes a mean worse than any mean without, and a better value makes a failure better.

    The learning curve is the criterion's value, a mean return for example, at most its threshold, so that no trial
    falls behind after it has met the criterion.
    """

    direction = "minimize"
    title = "timesteps to success"

    def current_value(self, context: TrainingContext) -> float | None:
        """Return the criterion's value, at most its threshold."""
        criterion = context.criterion
        if criterion is None or criterion.value is None:
            return None
        return min(criterion.value, criterion.threshold)

    def final_value(self, run: RunDirectory) -> float:
        """Return the criterion's value at the end of training, at most its threshold."""
        success = _read_success(run)
        value = _require_mean(success.get(success.get("measure", "mean_return")), run)
        return min(value, float(success.get("threshold", math.inf)))

    def score(self, run: RunDirectory, n_averaged: int) -> float:
        """Return the timestep of success, or at least all timesteps if there was none."""
        success = _read_success(run)
        if success.get("solved"):
            return float(success["timestep"])
        threshold = float(success["threshold"])
        distance = max(0.0, threshold - _require_mean(success.get(success["measure"]), run))
        return n_averaged * run.config.timesteps * (1 + distance / (distance + max(1.0, abs(threshold))))

    def bound_score(self, timesteps: float) -> float:
        """Return the timesteps so far."""
        return timesteps


OBJECTIVES: dict[str, Objective] = {"mean_return": MeanReturn(), "timesteps_to_success": TimestepsToSuccess()}


def _read_success(run: RunDirectory) -> dict[str, Any]:
    """Return what the success criterion reported at the end of a run; empty if the run has none."""
    return (run.result or {}).get("success") or {}


def _require_mean(mean_return: float | None, run: RunDirectory) -> float:
    if mean_return is None:
        raise TuningError(f"no episode counts after {run.config.timesteps:,} timesteps")
    return mean_return
