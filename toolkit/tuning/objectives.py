"""What trials are judged by, and by what learning curve they are compared while they train.

Both come out of training itself, for nothing, and out of raw returns, which compare trials whatever reward wrappers
they search among.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from toolkit.config.load import ResolvedConfig
from toolkit.training.callbacks import SuccessCriterion, TrainingContext
from toolkit.training.run_directory import RunDirectory
from toolkit.utils.data import mean_of_last
from toolkit.utils.errors import TuningError


class Objective(ABC):
    """What one training, with one seed, comes to.

    :ivar direction: whether more of it is better
    :ivar title: what it is, in words
    """

    direction: Literal["maximize", "minimize"]
    title: str

    def trained(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return what trials train of a config: the whole of it."""
        return config

    @abstractmethod
    def progress(self, context: TrainingContext) -> float | None:
        """Return where the learning curve stands during training; more is better; ``None`` before any episode."""

    @abstractmethod
    def end(self, run: RunDirectory) -> float:
        """Return where the learning curve has ended.

        :raises TuningError: if nothing can be said of the run
        """

    @abstractmethod
    def score(self, run: RunDirectory) -> float:
        """Return what the run is judged by.

        :raises TuningError: if nothing can be said of the run
        """


class MeanReturn(Objective):
    """The mean raw return of the last 100 training episodes, when the config's timesteps are used up.

    No success criterion ends a training before: the mean of the last 100 episodes would be the lower the sooner a
    criterion over fewer was met.
    """

    direction = "maximize"
    title = "mean return of the last 100 training episodes"

    def trained(self, config: ResolvedConfig) -> ResolvedConfig:
        """Leave the success criterion out."""
        return config.without_callbacks(lambda callback: issubclass(callback.cls, SuccessCriterion))

    def progress(self, context: TrainingContext) -> float | None:
        """Return the mean of the last 100 episodes so far."""
        return context.episodes.mean_return()

    def end(self, run: RunDirectory) -> float:
        """Return the score."""
        return self.score(run)

    def score(self, run: RunDirectory) -> float:
        """Return the mean of the last 100 episodes, or of as many as there are."""
        return _finite(mean_of_last([raw_return for raw_return, _ in run.episodes]), run)


class TimestepsToSuccess(Objective):
    """How many timesteps it takes to meet the config's success criterion.

    A seed that does not meet it counts as having taken all timesteps: the least that it can have taken. The learning
    curve is the criterion's mean return up to its threshold, so that none that has met it is behind another.
    """

    direction = "minimize"
    title = "timesteps to success"

    def progress(self, context: TrainingContext) -> float | None:
        """Return the criterion's mean return, up to its threshold."""
        criterion = context.criterion
        if criterion is None or criterion.mean_return is None:
            return None
        return min(criterion.mean_return, criterion.threshold)

    def end(self, run: RunDirectory) -> float:
        """Return the criterion's mean return when training ended, up to its threshold."""
        success = (run.result or {}).get("success") or {}
        return min(_finite(success.get("mean_return"), run), float(success.get("threshold", math.inf)))

    def score(self, run: RunDirectory) -> float:
        """Return the timestep of success, or all timesteps."""
        success = (run.result or {}).get("success") or {}
        return float(success["timestep"] if success.get("solved") else run.config.timesteps)


OBJECTIVES: dict[str, Objective] = {"mean_return": MeanReturn(), "timesteps_to_success": TimestepsToSuccess()}


def _finite(mean: float | None, run: RunDirectory) -> float:
    if mean is None:
        raise TuningError(f"no episode was completed in {run.config.timesteps:,} timesteps")
    if not math.isfinite(mean):
        raise TuningError(f"the mean return is {mean}")
    return mean
