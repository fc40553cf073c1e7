"""Text for terminals and messages: aligned tables, lists cut short, counts of things."""

from __future__ import annotations

from collections.abc import Sequence


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
