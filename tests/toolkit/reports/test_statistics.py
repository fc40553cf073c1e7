"""What runs on several seeds allow to say: rliable's numbers, a textbook's, and nothing where nothing can be said."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from rliable_reference import THRESHOLDS, cases, judged_by_rliable
from support import PROJECT

from toolkit.reports.statistics import (
    Band,
    Estimate,
    interquartile_band,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    success_rate,
    time_to_event,
)

REFERENCE = json.loads((PROJECT / "tests" / "rliable_reference.json").read_text())["cases"]


def judged(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, list[Any]]:
    x, y = [[*map(np.array, tasks)] for tasks in (ours, theirs)]
    profile = performance_profile(x, np.array(THRESHOLDS))
    return {
        "iqm": whole(interquartile_mean(x)),
        "improvement": whole(probability_of_improvement(x, y)),
        "profile": [profile.value, profile.low, profile.high],
    }


def whole(estimate: Estimate) -> list[list[float]]:
    return [[estimate.value], [estimate.low], [estimate.high]]


def check(ours: dict[str, list[Any]], rliables: dict[str, list[Any]], runs: int, tolerance: float) -> None:
    """Values agree to rounding; ends of intervals as closely as random resampling lets them."""
    for name in ("iqm", "improvement", "profile"):
        (value, low, high), (their_value, their_low, their_high) = ours[name], rliables[name]
        assert value == pytest.approx(their_value, rel=1e-12, abs=1e-12), name
        width = np.subtract(their_high, their_low)
        # a share of runs moves in steps of one run
        allowed = tolerance * width + (1.001 / runs if name == "profile" else 0)
        assert (np.abs(np.subtract(low, their_low)) <= allowed).all(), name
        assert (np.abs(np.subtract(high, their_high)) <= allowed).all(), name


@pytest.mark.parametrize("case", REFERENCE)
def test_estimates_are_those_that_rliable_gave(case: str) -> None:
    reference = REFERENCE[case]
    assert [reference["ours"], reference["theirs"]] == [*cases()[case]]
    runs = sum(map(len, reference["ours"]))
    check(judged(reference["ours"], reference["theirs"]), reference, runs, tolerance=0.03)


def test_estimates_are_those_that_rliable_gives_here() -> None:
    pytest.importorskip("rliable")
    ours, theirs = cases()["three tasks"]
    given = judged_by_rliable(ours, theirs, {"iqm": 5_000, "improvement": 500, "profile": 2_000})
    check(judged(ours, theirs), given, sum(map(len, ours)), tolerance=0.12)


def test_a_task_is_resampled_by_itself() -> None:
    """Were runs drawn from all tasks together, there would be an interval."""
    tasks = [np.full(8, 1.0), np.full(8, 100.0)]
    assert interquartile_mean(tasks) == Estimate(50.5, 50.5, 50.5)
    assert interquartile_mean([np.concatenate(tasks)]).high > 80


def test_outliers_do_not_move_the_interquartile_mean() -> None:
    scores = np.arange(8.0)
    spoilt = np.array([-1e9, 1, 2, 3, 4, 5, 6, 1e9])
    assert interquartile_mean([scores]).value == interquartile_mean([spoilt]).value == 3.5


def test_a_single_run_has_no_interval() -> None:
    one, other = [np.array([3.0])], [np.array([1.0, 2.0])]
    assert interquartile_mean(one).value == 3
    assert not interquartile_mean(one).has_interval
    assert not probability_of_improvement(one, other).has_interval
    assert np.isnan(performance_profile(one, np.array([1.0])).low).all()
    assert np.isnan(interquartile_band(np.ones((1, 3))).low).all()


def test_improvement_needs_no_common_scale() -> None:
    small, large = np.array([1.0, 2, 3, 4]), np.array([1e6, 2e6, 3e6])
    better = probability_of_improvement([small + 2, large], [small, large])
    assert better.value == pytest.approx((14 / 16 + 1 / 2) / 2)  # a tie counts half
    assert 0.4 < better.low < 0.5 < better.value < better.high < 1


def test_a_band_is_the_interval_of_each_point() -> None:
    curves = np.random.default_rng(3).standard_cauchy(size=(9, 4)) * [1, 2, 3, 0]
    band = interquartile_band(curves)
    for point in range(4):
        alone = interquartile_mean([curves[:, point]])
        width = alone.high - alone.low
        assert band.value[point] == pytest.approx(alone.value)
        assert band.low[point] == pytest.approx(alone.low, abs=0.1 * width)
        assert band.high[point] == pytest.approx(alone.high, abs=0.1 * width)


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (9, 10, 0.5958, 0.9821), (81, 263, 0.2553, 0.3662)],  # Newcombe 1998
)
def test_a_success_rate_has_wilsons_interval(successes: int, runs: int, low: float, high: float) -> None:
    rate = success_rate(successes, runs)
    assert rate.value == successes / runs
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)


def test_times_are_those_of_a_textbook() -> None:
    """Remissions under 6-MP, Freireich et al. 1963, the example in Kalbfleisch and Prentice."""
    weeks = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    found = time_to_event(np.array(weeks, dtype=float), np.arange(21) < 9)
    left = dict(zip(found.times, 1 - found.share.value, strict=True))
    assert [left[week] for week in (6, 7, 10, 13, 16, 22, 23)] == pytest.approx(
        [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], abs=5e-5
    )
    place = [*found.times].index(23)
    assert 1 - found.share.high[place] == pytest.approx(0.1881, abs=5e-4)
    assert 1 - found.share.low[place] == pytest.approx(0.6801, abs=5e-4)
    assert found.median == Estimate(23, 13, np.inf)


@pytest.mark.parametrize(
    ("happened", "median"),
    [
        ([1, 1, 1, 1], Estimate(20, 10, np.inf)),
        ([0, 0, 0, 0], Estimate(np.inf, np.inf, np.inf)),
        ([1, 0, 0, 0], Estimate(np.inf, 10, np.inf)),
    ],
)
def test_a_median_is_infinite_until_half_have_got_there(happened: list[int], median: Estimate) -> None:
    found = time_to_event(np.array([10.0, 20, 30, 40]), np.array(happened, dtype=bool))
    assert found.median == median
    assert_ordered(found.share)


def test_shares_never_fall_and_lie_in_their_intervals() -> None:
    random = np.random.default_rng(0)
    for runs in (1, 2, 5, 40):
        for share in (0, 0.3, 1):
            times = random.integers(1, 20, runs).astype(float)
            found = time_to_event(times, random.random(runs) < share)
            assert_ordered(found.share)
            assert all(one <= other for one, other in itertools.pairwise(found.share.value))
            assert (found.times[0], found.share.value[0]) == (0, 0)


def assert_ordered(band: Band) -> None:
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()
    assert ((band.low >= 0) & (band.high <= 1)).all()


def test_equal_numbers_give_equal_intervals() -> None:
    scores = [np.random.default_rng(0).normal(size=12)]
    np.random.seed(1)  # what others do to the global generator does not matter
    assert interquartile_mean(scores) == interquartile_mean(scores)


def test_intervals_of_ten_runs_hold_the_truth_nearly_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = [(found := interquartile_mean([random.normal(size=10)])).low <= 0 <= found.high for _ in range(200)]
    assert 0.86 <= np.mean(held) <= 0.98
