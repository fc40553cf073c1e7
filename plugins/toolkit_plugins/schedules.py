"""Schedules of hyperparameters.

Those of SB3 map the remaining progress, from 1 at the start to 0 at the end, to a value. DoubleDQN's ``exploration``
maps the number of completed episodes and the timestep to epsilon. A parameter of an environment or a wrapper also
takes one that maps the training episodes to a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stable_baselines3.common.utils import LinearSchedule

from toolkit.utils.data import compute_mean

if TYPE_CHECKING:
    from toolkit.envs.episodes import Episode


class Linear(LinearSchedule):
    """Change in a straight line from ``start`` to ``end``, then stay at ``end``.

    :param start: value at the beginning of training
    :param end: value at the end
    :param end_fraction: fraction of training after which ``end`` is reached, above 0 and at most 1
    """

    def __init__(self, start: float, end: float = 0.0, end_fraction: float = 1.0) -> None:
        if not 0 < end_fraction <= 1:
            raise ValueError(f"end_fraction must be above 0 and at most 1, not {end_fraction}")
        super().__init__(start, end, end_fraction)


class Exponential:
    """Change by the same factor in every step, from ``start`` to ``end``.

    :param start: value at the beginning of training, above 0
    :param end: value at the end, above 0
    """

    def __init__(self, start: float, end: float) -> None:
        if not (start > 0 and end > 0):
            raise ValueError(f"start and end must be above 0, not {start} and {end}")
        self.start = start
        self.end = end

    def __call__(self, progress_remaining: float) -> float:
        """Return the value at a remaining progress from 1 to 0."""
        return float(self.start * (self.end / self.start) ** (1 - progress_remaining))


class Harmonic:
    """Decay epsilon with the number of completed episodes: ``final + scale / (1 + episode)``.

    :param final: the value that epsilon approaches, at least 0
    :param scale: how far above ``final`` the first episode starts, at least 0; their sum is at most 1
    """

    def __init__(self, final: float, scale: float) -> None:
        if not (final >= 0 and scale >= 0 and final + scale <= 1):
            raise ValueError(f"final and scale must be at least 0 and at most 1 together, not {final} and {scale}")
        self.final = final
        self.scale = scale

    def __call__(self, episode: int, timestep: int) -> float:
        """Return epsilon after ``episode`` completed episodes."""
        return self.final + self.scale / (1 + episode)


class BySuccess:
    """Change a parameter of an environment or a wrapper from ``start`` to ``end`` as training succeeds.

    The value moves in a straight line while the last training episodes improve from ``low`` to ``high``, and back if
    they get worse. It is ``start`` until ``episodes`` of them count.

    :param start: value up to ``low``
    :param end: value from ``high`` on
    :param high: mean raw return, or success rate, from which the value is ``end``; above ``low``
    :param low: the one up to which the value is ``start``
    :param episodes: number of last training episodes that count, at least 1
    :param measure: ``mean_return``; or ``success_rate``, the share of episodes with a true ``info["is_success"]``
    """

    def __init__(
        self,
        start: float,
        end: float,
        high: float,
        low: float = 0.0,
        episodes: int = 100,
        measure: Literal["mean_return", "success_rate"] = "mean_return",
    ) -> None:
        if not low < high:
            raise ValueError(f"high must be above low, not {high} and {low}")
        if episodes < 1:
            raise ValueError(f"episodes must be at least 1, not {episodes}")
        self.start = start
        self.end = end
        self.low = low
        self.high = high
        self.episodes = episodes
        self.measure = measure

    def __call__(self, *, episodes: Sequence[Episode]) -> float:
        """Return the value after training episodes, which are in the order of their start."""
        if len(episodes) < self.episodes:
            return self.start
        window = episodes[-self.episodes :]
        values = [
            episode.raw_return if self.measure == "mean_return" else episode.is_success or 0.0 for episode in window
        ]
        share = (compute_mean(values) - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)
