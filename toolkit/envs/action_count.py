"""How often an action was taken: what a report reads, without the environments themselves."""

from __future__ import annotations

from typing import NamedTuple


class ActionCount(NamedTuple):
    """How often a component of the actions was in a range.

    :param component: its index in the flattened action; 0 for a ``Discrete`` action
    :param low: the action itself if actions are whole numbers, else the lower end of the range
    :param high: the same as ``low``, or the upper end
    :param steps: how many of the last steps, over all environments
    """

    component: int
    low: float
    high: float
    steps: int
