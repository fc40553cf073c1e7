"""Schedules of hyperparameters.

Those of SB3 map the remaining progress, from 1 at the start to 0 at the end, to a value. DoubleDQN's ``exploration``
maps the number of completed episodes and the timestep to epsilon.
"""

from __future__ import annotations

from stable_baselines3.common.utils import LinearSchedule


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
