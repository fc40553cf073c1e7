"""Estimates from several runs, against rliable, textbooks and published tables."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from rliable_reference import THRESHOLDS, estimate_with_rliable, make_cases
from scipy.stats import norm
from support import PROJECT

from toolkit.reports.statistics import (
    Band,
    Estimate,
    estimate_interquartile_curve,
    estimate_interquartile_mean,
    estimate_performance_profile,
    estimate_probability_of_improvement,
    estimate_success_rate,
    estimate_time_to_event,
)

REFERENCE_CASES = json.loads((PROJECT / "tests" / "rliable_reference.json").read_text())["cases"]


def estimate_all(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, list[Any]]:
    x, y = [[*map(np.array, tasks)] for tasks in (ours, theirs)]
    profile = estimate_performance_profile(x, np.array(THRESHOLDS))
    return {
        "iqm": to_columns(estimate_interquartile_mean(x)),
        "improvement": to_columns(estimate_probability_of_improvement(x, y)),
        "profile": [profile.value, profile.low, profile.high],
    }


def to_columns(estimate: Estimate) -> list[list[float]]:
    return [[estimate.value], [estimate.low], [estimate.high]]


def assert_close_to_rliable(
    estimates: dict[str, list[Any]], reference: dict[str, list[Any]], tolerance: float
) -> None:
    """Check that values agree up to rounding, and bootstrap intervals up to the noise of resampling."""
    for name in ("iqm", "improvement", "profile"):
        assert estimates[name][0] == pytest.approx(reference[name][0], rel=1e-12, abs=1e-12), name
    (_, low, high), (_, expected_low, expected_high) = estimates["iqm"], reference["iqm"]
    allowed = tolerance * np.subtract(expected_high, expected_low)
    assert np.abs(np.subtract(low, expected_low)) <= allowed
    assert np.abs(np.subtract(high, expected_high)) <= allowed


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_estimates_match_stored_rliable_results(case: str) -> None:
    reference = REFERENCE_CASES[case]
    assert [reference["ours"], reference["theirs"]] == [*make_cases()[case]]
    assert_close_to_rliable(estimate_all(reference["ours"], reference["theirs"]), reference, tolerance=0.03)


def test_estimates_match_installed_rliable() -> None:
    pytest.importorskip("rliable")
    ours, theirs = make_cases()["three tasks"]
    results = estimate_with_rliable(ours, theirs, {"iqm": 5_000, "improvement": 500, "profile": 2_000})
    assert_close_to_rliable(estimate_all(ours, theirs), results, tolerance=0.12)


def test_tasks_are_resampled_separately() -> None:
    """Resampling all tasks together would give an interval with width."""
    tasks = [np.full(8, 1.0), np.full(8, 100.0)]
    assert estimate_interquartile_mean(tasks).value == 50.5
    assert not estimate_interquartile_mean(tasks).has_interval
    assert estimate_interquartile_mean([np.concatenate(tasks)]).high > 80


def test_outliers_do_not_move_interquartile_mean() -> None:
    scores = np.arange(8.0)
    outliers = np.array([-1e9, 1, 2, 3, 4, 5, 6, 1e9])
    assert estimate_interquartile_mean([scores]).value == estimate_interquartile_mean([outliers]).value == 3.5


def test_single_run_has_no_interval() -> None:
    single, several = [np.array([3.0])], [np.array([1.0, 2.0])]
    assert estimate_interquartile_mean(single).value == 3
    assert not estimate_interquartile_mean(single).has_interval
    assert not estimate_probability_of_improvement(single, several).has_interval
    assert np.isnan(estimate_performance_profile(single, np.array([1.0])).low).all()
    assert np.isnan(estimate_interquartile_curve(np.ones((1, 3))).low).all()


def test_improvement_needs_no_common_scale() -> None:
    small, large = np.array([1.0, 2, 3, 4]), np.array([1e6, 2e6, 3e6])
    improvement = estimate_probability_of_improvement([small + 2, large], [small, large])
    assert improvement.value == pytest.approx((14 / 16 + 1 / 2) / 2)  # a tie counts half
    assert improvement.low < 0.5 < improvement.value < improvement.high < 1


@pytest.mark.parametrize("runs", [3, 9])
def test_band_is_the_interval_at_each_point(runs: int) -> None:
    curves = np.random.default_rng(3).standard_cauchy(size=(runs, 4)) * [1, 2, 3, 0] + 0.1
    band = estimate_interquartile_curve(curves)
    for point in range(4):
        estimate = estimate_interquartile_mean([curves[:, point]])
        width = estimate.high - estimate.low
        assert band.value[point] == pytest.approx(estimate.value)
        assert band.low[point] == pytest.approx(estimate.low, abs=0.1 * width, nan_ok=True)
        assert band.high[point] == pytest.approx(estimate.high, abs=0.1 * width, nan_ok=True)
    assert np.isnan(band.low).tolist() == [False, False, False, True], "equal scores have no interval"


@pytest.mark.parametrize("runs", [2, 3, 7, 8, 20])
def test_equal_scores_have_no_interval(runs: int) -> None:
    assert not estimate_interquartile_mean([np.full(runs, 0.1)]).has_interval


def test_few_scores_have_interval_of_student() -> None:
    """The example of 8.2, 9.1, 10.4: mean 9.233, s 1.106, t(2) 4.303, so half the width is 2.7476."""
    estimate = estimate_interquartile_mean([np.array([9.1, 10.4, 8.2])])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((9.2333, 6.4858, 11.9809), abs=1e-4)


@pytest.mark.parametrize(("runs", "low"), [(2, 0.3424), (3, 0.4385), (4, 0.5101), (10, 0.7225)])
def test_improvement_of_separate_scores_has_wilson_interval(runs: int, low: float) -> None:
    improvement = estimate_probability_of_improvement([np.arange(runs) + 100.0], [np.arange(runs + 2.0)])
    assert (improvement.value, improvement.low, improvement.high) == pytest.approx((1, low, 1), abs=5e-5)


def test_profile_has_wilson_interval_at_each_threshold() -> None:
    profile = estimate_performance_profile([np.arange(10.0)], np.array([-1.0, 0.5, 9.0]))
    assert profile.value.tolist() == [1.0, 0.9, 0.0]
    assert profile.low == pytest.approx([0.7225, 0.5958, 0.0], abs=5e-5)  # Newcombe 1998
    assert profile.high == pytest.approx([1.0, 0.9821, 0.2775], abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (9, 10, 0.5958, 0.9821), (81, 263, 0.2553, 0.3662)],  # Newcombe 1998
)
def test_success_rate_has_wilson_interval(successes: int, runs: int, low: float, high: float) -> None:
    rate = estimate_success_rate(successes, runs)
    assert rate.value == successes / runs
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)


def test_time_to_event_matches_textbook() -> None:
    """Remissions under 6-MP, Freireich et al. 1963, the example in Kalbfleisch and Prentice."""
    weeks = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    times_to_event = estimate_time_to_event(np.array(weeks, dtype=float), np.arange(21) < 9)
    survival = dict(zip(times_to_event.times, 1 - times_to_event.share.value, strict=True))
    assert [survival[week] for week in (6, 7, 10, 13, 16, 22, 23)] == pytest.approx(
        [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], abs=5e-5
    )
    index = [*times_to_event.times].index(23)
    assert 1 - times_to_event.share.high[index] == pytest.approx(0.1881, abs=5e-4)
    assert 1 - times_to_event.share.low[index] == pytest.approx(0.6801, abs=5e-4)
    assert times_to_event.median == Estimate(23, 13, np.inf)


@pytest.mark.parametrize(
    ("happened", "median"),
    [
        ([1, 1, 1, 1], Estimate(20, 10, np.inf)),
        ([0, 0, 0, 0], Estimate(np.inf, np.inf, np.inf)),
        ([1, 0, 0, 0], Estimate(np.inf, 10, np.inf)),
    ],
)
def test_median_time_is_infinite_below_half(happened: list[int], median: Estimate) -> None:
    times_to_event = estimate_time_to_event(np.array([10.0, 20, 30, 40]), np.array(happened, dtype=bool))
    assert times_to_event.median == median
    assert_ordered(times_to_event.share)


def test_shares_rise_and_lie_in_their_intervals() -> None:
    random = np.random.default_rng(0)
    for runs in (1, 2, 5, 40):
        for share in (0, 0.3, 1):
            times = random.integers(1, 20, runs).astype(float)
            times_to_event = estimate_time_to_event(times, random.random(runs) < share)
            assert_ordered(times_to_event.share)
            assert all(share <= later for share, later in itertools.pairwise(times_to_event.share.value))
            assert (times_to_event.times[0], times_to_event.share.value[0]) == (0, 0)


def assert_ordered(band: Band) -> None:
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()
    assert ((band.low >= 0) & (band.high <= 1)).all()


def test_equal_scores_give_equal_intervals() -> None:
    scores = [np.random.default_rng(0).normal(size=12)]
    np.random.seed(1)  # the global generator does not matter
    assert estimate_interquartile_mean(scores) == estimate_interquartile_mean(scores)


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
def test_intervals_of_few_runs_have_nearly_nominal_coverage(runs: int) -> None:
    random = np.random.default_rng(0)
    estimates = [estimate_interquartile_mean([random.normal(size=runs)]) for _ in range(200)]
    assert 0.91 <= np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) <= 0.99


def test_improvement_of_few_runs_has_at_least_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    probability = norm.cdf(2 / np.sqrt(2))
    for runs in (3, 5):
        samples = [[[random.normal(shift, size=runs)] for shift in (2, 0)] for _ in range(300)]
        estimates = [estimate_probability_of_improvement(*pair) for pair in samples]
        assert np.mean([estimate.low <= probability <= estimate.high for estimate in estimates]) >= 0.94
