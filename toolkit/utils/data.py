"""Plain data: means of episodes, equality, and the leaves of nested mappings and lists."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.utils.errors import KeyPath

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_WINDOW = 100  # episodes, as in Gym's definition of solved
MONITOR_COLUMNS = ("r", "l", "t", "timestep")  # of monitor.csv; further columns may follow
LARGEST_RETURN = 1e150  # its square is still a number


def compute_mean(values: Sequence[float] | NDArray[Any]) -> float:
    """Return the mean of values. Rounding never takes it below the smallest or above the largest of them.

    >>> compute_mean([0.1] * 10)
    0.1

    :param values: finite numbers, at least one
    """
    mean = math.fsum(values) / len(values)
    return float(min(max(mean, min(values)), max(values)))


def mean_of_last(values: Sequence[float] | NDArray[Any], window: int = DEFAULT_WINDOW) -> float | None:
    """Return the mean of the last values.

    >>> mean_of_last([1.0, 2.0, 6.0], 2)
    4.0

    :param window: number of values, at least 1; fewer count if there are fewer
    :return: None if there are no values
    """
    last = values[max(0, len(values) - window) :]
    return compute_mean(last) if len(last) else None


def iterate_leaves(data: Any, path: KeyPath = (), enter_lists: bool = True) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and the value of each leaf of nested data; an empty mapping or list is a leaf.

    :param path: path of ``data`` itself
    :param enter_lists: whether the items of a list are leaves, or else the list
    """
    containers = (dict, list) if enter_lists else (dict,)
    if not isinstance(data, containers) or not data:
        yield path, data
        return
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield from iterate_leaves(value, (*path, key), enter_lists)


def flatten(data: Any, separator: str = ".", enter_lists: bool = True) -> dict[str, Any]:
    """Return the leaves of nested data by their joined paths.

    >>> flatten({"a": {"b": [1, 2]}, "c": {}})
    {'a.b.0': 1, 'a.b.1': 2, 'c': {}}
    """
    return {separator.join(map(str, path)): leaf for path, leaf in iterate_leaves(data, (), enter_lists)}


def are_equal(left: Any, right: Any) -> bool:
    """Return whether plain data is equal; NaN equals NaN, and a tuple equals a list of the same items.

    >>> are_equal({"a": [float("nan")]}, {"a": (float("nan"),)})
    True
    """
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(are_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(are_equal, left, right))
    are_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    return are_nan or bool(left == right)
