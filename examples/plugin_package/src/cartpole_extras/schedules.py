"""Schedules: values that change during training."""

from __future__ import annotations

from math import cos, pi


class Cosine:
    """Change from ``start`` to ``end`` along half a cosine wave: slow, fast, slow.

    Paper: Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts" (2017),
    https://arxiv.org/abs/1608.03983, equation 5, without restarts.

    :param start: value at the beginning of training
    :param end: value at the end
    """

    def __init__(self, start: float, end: float = 0.0) -> None:
        self.start = start
        self.end = end

    def __call__(self, progress_remaining: float) -> float:
        """Return the value. SB3 passes ``progress_remaining``, from 1 at the beginning down to 0."""
        return self.end + (self.start - self.end) * (1 + cos(pi * (1 - progress_remaining))) / 2
