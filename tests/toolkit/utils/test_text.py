"""Text for terminals and messages."""

from __future__ import annotations

import pytest

from toolkit.utils.text import abbreviate, format_count, format_table


@pytest.mark.parametrize(
    ("limit", "lines"),
    [(0, ["and 3 more"]), (2, ["a", "b", "and 1 more"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])],
)
def test_abbreviate_counts_items_above_limit(limit: int, lines: list[str]) -> None:
    assert abbreviate("abc", limit) == lines


def test_abbreviate_separates_thousands_and_names_items() -> None:
    assert abbreviate(["run"] * 1_234, 1, "more failed") == ["run", "and 1,233 more failed"]


@pytest.mark.parametrize(("count", "text"), [(0, "0 runs"), (1, "1 run"), (2_000, "2,000 runs")])
def test_format_count_uses_plural_unless_count_is_one(count: int, text: str) -> None:
    assert format_count(count, "run") == text


def test_format_table_aligns_columns_and_repeats_last_alignment() -> None:
    rows = [("a", "1", "10"), ("long", "200", "3")]
    assert format_table(("name", "n", "m"), rows, "<>") == ["name    n   m", "a       1  10", "long  200   3"]
    assert format_table(("name", "n", "m"), rows) == ["name  n    m", "a     1    10", "long  200  3"]
