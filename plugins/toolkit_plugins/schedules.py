"""Schedules: SB3's remaining progress, 1 at the start to 0 at the end, to a value."""

from __future__ import annotations

from stable_baselines3.common.utils import LinearSchedule


class Linear(LinearSchedule):
    """A straight line from ``start`` to ``end``, then ``end``.

    :param start: value at the beginning of training
    :param end: value at the end
    :param end_fraction: the part of training, above 0 and at most 1, after which ``end`` is reached
    """

    def __init__(self, start: float, end: float = 0.0, end_fraction: float = 1.0) -> None:
        if not 0 < end_fraction <= 1:
            raise ValueError(f"end_fraction must be above 0 and at most 1, not {end_fraction}")
        super().__init__(start, end, end_fraction)
