"""Text for terminals and messages: aligned tables, lists cut short, counts of things."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MAX_DECIMAL_NOTATION = 1e12
_MAX_DECIMALS = 6
_MAX_DISTORTION = 0.05  # relative error of rounding


def abbreviate(items: Sequence[str], limit: int, more: str = "more") -> list[str]:
    """Return the first items, and an item that counts the others: ``["a", "b", "and 3 more"]``.

    :param limit: how many items are shown, at least 0
    :param more: what follows the count
    """
    left_out = len(items) - limit
    return [*items] if left_out <= 0 else [*items[:limit], f"and {left_out:,} {more}"]


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 run``, ``2,000 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def count_decimals(numbers: Sequence[float]) -> int:
    """Return how many decimal places, at most six, tell numbers apart, such as the ends of an interval."""
    width = max(numbers) - min(numbers) or abs(numbers[0]) / 100
    return min(_MAX_DECIMALS, max(0, 1 - math.floor(math.log10(width)))) if width else 0


def format_number(value: float, decimals: int, separator: str = "") -> str:
    """Write a number with so many decimal places, or with three significant digits where these would distort it.

    A very large number has a power of ten.

    >>> [format_number(value, 1) for value in (195.93, 0.0, 0.26, 1e-7)]
    ['195.9', '0.0', '0.26', '1e-07']

    :param separator: between groups of three digits
    """
    if abs(value) >= _MAX_DECIMAL_NOTATION:
        return f"{value:.6g}"
    is_distorted = abs(float(f"{value:.{decimals}f}") - value) > _MAX_DISTORTION * abs(value)
    return f"{value:.3g}" if is_distorted else f"{value:{separator}.{decimals}f}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "<") -> list[str]:
    """Return the lines of a table whose columns are aligned, the header first.

    :param alignment: ``<`` or ``>`` for each column; the last one also holds for the columns after it
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    sides = alignment.ljust(len(widths), alignment[-1])
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
