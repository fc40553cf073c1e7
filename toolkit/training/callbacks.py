"""What a callback may know of the run it serves, for plugin authors.

An SB3 ``BaseCallback`` works as it is. One that needs the run's directory, its episodes or its success criterion
subclasses :class:`RunCallback`; a criterion subclasses :class:`SuccessCriterion`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from toolkit.envs.episodes import EpisodeLog
from toolkit.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Success:
    """When a success criterion was met.

    :param episode: number of training episodes completed by then
    :param timestep: environment steps taken by then, over all environments
    :param seconds: since training started
    :param mean_return: the mean raw return that met the threshold
    """

    episode: int
    timestep: int
    seconds: float
    mean_return: float


@dataclass(frozen=True)
class TrainingContext:
    """The run that a callback serves, while it trains.

    :param run: the run directory and config
    :param episodes: completed training episodes; grows during training
    :param criterion: the run's success criterion, if it has one
    """

    run: RunDirectory
    episodes: EpisodeLog
    criterion: SuccessCriterion | None


class RunCallback(BaseCallback):
    """An SB3 callback that knows its run: ``self.context`` is set before training starts."""

    context: TrainingContext

    def close(self) -> None:
        """Give resources back; called once when training is over, however it ended."""


class SuccessCriterion(RunCallback):
    """Decides when training has succeeded, and stops it then; a run has at most one.

    :param threshold: raw mean return to reach
    :param episodes: size of the window of last completed training episodes
    """

    def __init__(self, threshold: float, episodes: int) -> None:
        super().__init__()
        self.threshold = threshold
        self.episodes = episodes
        self.success: Success | None = None

    @property
    @abstractmethod
    def mean_return(self) -> float | None:
        """Mean raw return of the last ``episodes`` completed episodes, or of as many as there are; None before any."""

    def report(self) -> dict[str, Any]:
        """Return the ``success`` entry of ``result.json``."""
        reached: dict[str, Any] = {"episode": None, "timestep": None, "seconds": None, "mean_return": self.mean_return}
        if self.success:
            reached = asdict(self.success)
        return {"threshold": self.threshold, "episodes": self.episodes, "solved": self.success is not None} | reached
