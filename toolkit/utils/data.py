"""Small computations on data that several packages share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEFAULT_WINDOW = 100  # episodes, as in Gym's definition of solved


def mean_of_last(values: Sequence[float], window: int = DEFAULT_WINDOW) -> float | None:
    """Return the mean of the last values.

    >>> mean_of_last([1.0, 2.0, 6.0], 2)
    4.0

    :param window: number of values, at least 1; fewer count if there are fewer
    :return: None if there are no values
    """
    last = values[max(0, len(values) - window) :]
    return float(np.mean(last)) if len(last) else None
