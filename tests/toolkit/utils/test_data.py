from __future__ import annotations

from typing import Any

import pytest

from toolkit.utils.data import are_equal, compute_mean, flatten, iterate_leaves

NAN = float("nan")


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-9 / 3, -1e12 / 3])
def test_equal_values_have_their_own_mean(value: float) -> None:
    assert {compute_mean([value] * count) for count in range(1, 300)} == {value}


def test_flatten_joins_paths_and_keeps_empty_containers() -> None:
    data = {"a": {"b": [1, {"c": None}]}, "d": [], "e": {}}
    assert flatten(data) == {"a.b.0": 1, "a.b.1.c": None, "d": [], "e": {}}
    assert flatten(data, "/", enter_lists=False) == {"a/b": [1, {"c": None}], "d": [], "e": {}}
    assert flatten(3) == {"": 3}


def test_iterate_leaves_prefixes_paths() -> None:
    assert [*iterate_leaves({"a": [True]}, ("env", 0))] == [(("env", 0, "a", 0), True)]


@pytest.mark.parametrize(
    ("left", "right"), [(NAN, NAN), ([NAN, {"a": NAN}], (NAN, {"a": NAN})), ({"a": 1, "b": []}, {"b": [], "a": 1.0})]
)
def test_equal_data_with_nan(left: Any, right: Any) -> None:
    assert are_equal(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [(NAN, 0.0), (NAN, None), ([1], [1, 2]), ({"a": 1}, {"b": 1}), ({"a": NAN}, {"a": [NAN]}), ([], {})],
)
def test_different_data_with_nan(left: Any, right: Any) -> None:
    assert not are_equal(left, right)
