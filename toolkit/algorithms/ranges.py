"""The ranges of parameters, checked alike in every class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Range = tuple[Callable[[Any], bool], str]
"""Whether a value is in the range, and the words for it."""

AT_LEAST_ONE: Range = (lambda value: value >= 1, "at least 1")
ABOVE_ZERO: Range = (lambda value: value > 0, "above 0")
FROM_ZERO_TO_ONE: Range = (lambda value: 0 <= value <= 1, "from 0 to 1")

EXPLORATION: dict[str, Range] = {
    "exploration_fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "exploration_initial_eps": FROM_ZERO_TO_ONE,
    "exploration_final_eps": FROM_ZERO_TO_ONE,
}


def check_ranges(values: Mapping[str, Any], ranges: Mapping[str, Range], owner: str = "") -> None:
    """Check parameters by name.

    :param owner: what has the parameters, for the message
    :raises ValueError: for the first one that is out of its range
    """
    for name, (is_in_range, expected) in ranges.items():
        if not is_in_range(values[name]):
            place = f"{owner}: {name}" if owner else name
            raise ValueError(f"{place} must be {expected}, not {values[name]}")
