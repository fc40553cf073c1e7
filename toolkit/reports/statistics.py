"""Estimates with 95 % intervals from the scores of runs on several seeds.

Interquartile mean, stratified percentile bootstrap, probability of improvement and performance profiles follow
Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. Intervals do so
only where a bootstrap holds the true value about 95 times in 100. Every function has its own random generator: equal
scores give equal intervals.

Parameters named ``tasks`` hold the scores of one method: one array of shape (runs,) per task, with at least one run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, binomtest, ecdf, norm, t, trim_mean

Array = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
N_RESAMPLES = 10_000
N_BAND_RESAMPLES = 2_000  # for each point of a curve
MIN_BOOTSTRAP_RUNS = 8  # a bootstrap of fewer runs is too narrow
_MAX_BATCH_NUMBERS = 1 << 22  # resampled scores in memory
_INTERVAL_QUANTILES = ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; both ends are NaN if there is no interval."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not np.isnan(self.low)


@dataclass(frozen=True)
class Band:
    """A curve and its pointwise 95 % interval, each of shape (points,); NaN if there is no interval."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class EventTimes:
    """Kaplan-Meier estimate of when an event happens.

    :param times: where the share changes, from 0 on, of shape (points,)
    :param share: share of runs in which the event has happened by then, with its log-log interval
    :param median: first time by which the event has happened in half of the runs, with its interval (Brookmeyer and
        Crowley); infinite if that time is not reached
    """

    times: Array
    share: Band
    median: Estimate


def estimate_interquartile_mean(tasks: Sequence[Array]) -> Estimate:
    """Estimate the mean of the middle half of all scores: of n scores, n // 4 at each end are left out.

    The interval is that of Student's t for fewer than eight runs, with the standard deviation of all scores, because
    resampling few runs gives too narrow ones. For more it is the percentile interval of a stratified bootstrap.

    :return: an estimate without an interval if a task has a single run, or if the interval has no width: such scores
        do not show how runs differ
    """
    scores = np.concatenate([*tasks])
    value = float(trim_mean(scores, 0.25))
    if min(map(len, tasks)) < 2:
        return Estimate(value, np.nan, np.nan)
    if len(scores) < MIN_BOOTSTRAP_RUNS:
        interval = _compute_t_interval(scores[:, None], np.array([value]))[:, 0]
    else:
        batch_size = max(1, _MAX_BATCH_NUMBERS // len(scores))
        means = [trim_mean(scores, 0.25, axis=1) for scores in _draw_resamples(tasks, N_RESAMPLES, batch_size)]
        interval = np.quantile(np.concatenate(means), _INTERVAL_QUANTILES)
    return Estimate(value, *map(float, _drop_empty(interval)))


def estimate_probability_of_improvement(tasks: Sequence[Array], other_tasks: Sequence[Array]) -> Estimate:
    """Estimate how probably a run of one method scores higher than a run of another; a tie counts half.

    The probability is averaged over tasks. Scores of different tasks are never compared, so their scales may differ.

    The interval is Wilson's, for as many runs as the smaller method has. The variance of the estimate is at most that
    of so many independent trials (Birnbaum and Klose, Bounds for the variance of the Mann-Whitney statistic, 1957).
    So it is rather too wide than too narrow, also if every run of one method scores higher.

    :return: an estimate without an interval if either method has a single run on a task
    """
    values = [
        np.heaviside(scores[:, None] - other_scores[None, :], 0.5).mean()
        for scores, other_scores in zip(tasks, other_tasks, strict=True)
    ]
    value = float(np.mean(values))
    n_runs = [min(len(scores), len(other_scores)) for scores, other_scores in zip(tasks, other_tasks, strict=True)]
    if min(n_runs) < 2:
        return Estimate(value, np.nan, np.nan)
    low, high = _compute_wilson_interval(np.array([value]), len(n_runs) ** 2 / sum(1 / n for n in n_runs))[:, 0]
    return Estimate(value, float(low), float(high))


def estimate_performance_profile(tasks: Sequence[Array], thresholds: Array) -> Band:
    """Estimate the share of runs, over all tasks, that score higher than each threshold, with its Wilson interval.

    :return: a band without an interval if a task has a single run
    """
    scores = np.concatenate([*tasks])
    share = (scores[:, None] > thresholds).mean(axis=0)
    if min(map(len, tasks)) < 2:
        return _make_band_without_interval(share)
    return Band(share, *_compute_wilson_interval(share, len(scores)))


def estimate_interquartile_curve(curves: Array) -> Band:
    """Estimate the interquartile mean of several curves at each point; see :func:`estimate_interquartile_mean`.

    :param curves: of shape (runs, points)
    """
    n_runs = len(curves)
    value = trim_mean(curves, 0.25, axis=0)
    if n_runs < 2:
        return _make_band_without_interval(value)
    if n_runs < MIN_BOOTSTRAP_RUNS:
        interval = _compute_t_interval(curves, value)
    else:
        # einsum does not use BLAS, whose threads would wait for each other longer than this takes
        means = np.einsum("rk,kp->rp", _draw_middle_weights(n_runs), np.sort(curves, axis=0))
        interval = np.quantile(means, _INTERVAL_QUANTILES, axis=0)
    return Band(value, *_drop_empty(interval))


def estimate_success_rate(n_successes: int, n_runs: int) -> Estimate:
    """Estimate the share of runs that succeed, with its Wilson interval; ``n_runs`` is at least 1."""
    interval = binomtest(n_successes, n_runs).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return Estimate(n_successes / n_runs, float(interval.low), float(interval.high))


def estimate_time_to_event(times: Array, has_happened: NDArray[np.bool_]) -> EventTimes:
    """Estimate when an event happens, if some runs stopped before it happened (right-censored).

    The estimate assumes that the event is as likely in those runs as in the others.

    :param times: when the event happened in each run, or when the run stopped; of shape (runs,), above 0
    :param has_happened: whether the event happened, of shape (runs,)
    """
    distribution = ecdf(CensoredData(uncensored=times[has_happened], right=times[~has_happened])).cdf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no interval where the event has happened in no run or in all
        interval = distribution.confidence_interval(CONFIDENCE_LEVEL, method="log-log")
    share = np.array([0.0, *distribution.probabilities])
    low = np.maximum.accumulate(np.nan_to_num([0.0, *interval.low.probabilities], nan=0.0))
    high = np.array(
        [0.0, *np.where(np.isnan(interval.high.probabilities), share[1:] > 0, interval.high.probabilities)]
    )
    steps = np.array([0.0, *distribution.quantiles])

    def find_median(shares: Array) -> float:
        return float(steps[np.argmax(shares >= 0.5)]) if shares[-1] >= 0.5 else np.inf

    return EventTimes(steps, Band(share, low, high), Estimate(find_median(share), find_median(high), find_median(low)))


def _draw_resamples(tasks: Sequence[Array], n_resamples: int, batch_size: int) -> Iterator[Array]:
    """Draw from each task as many runs as it has, with replacement; yield arrays of shape (batch, runs)."""
    rng = np.random.default_rng(0)
    for start in range(0, n_resamples, batch_size):
        size = min(batch_size, n_resamples - start)
        yield np.concatenate([task[rng.integers(len(task), size=(size, len(task)))] for task in tasks], axis=1)


def _compute_t_interval(scores: Array, centre: Array) -> Array:
    """Return the ends of Student's t intervals around centres.

    :param scores: of shape (runs, points), two runs or more
    :param centre: of shape (points,)
    :return: of shape (2, points)
    """
    n_runs = len(scores)
    half_width = t.ppf(_INTERVAL_QUANTILES[1], n_runs - 1) * np.std(scores, axis=0, ddof=1) / math.sqrt(n_runs)
    return np.array([centre - half_width, centre + half_width])


def _compute_wilson_interval(share: Array, n_trials: float) -> Array:
    """Return the ends of Wilson's intervals of shares, of shape (2, points)."""
    z2 = norm.ppf(_INTERVAL_QUANTILES[1]) ** 2 / n_trials
    centre = (share + z2 / 2) / (1 + z2)
    half_width = np.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return np.array([centre - half_width, centre + half_width]).clip(0, 1)


def _drop_empty(interval: Array) -> Array:
    """Return the ends of intervals, NaN where an interval has no width."""
    is_empty = np.isclose(interval[0], interval[1], rtol=1e-12, atol=0)  # means of equal scores can differ by rounding
    return np.array(np.where(is_empty, np.nan, interval))


@lru_cache(maxsize=2)  # the variants of an experiment usually have equally many runs
def _draw_middle_weights(n_runs: int) -> Array:
    """Draw ``n_runs`` ranks with replacement; return the weight of each rank in the mean of the middle half.

    All points of the curves share these ranks. The interval is pointwise, so that is no loss.

    :return: of shape (resamples, runs)
    """
    ranks = np.random.default_rng(0).integers(n_runs, size=(N_BAND_RESAMPLES, n_runs))
    middle = np.sort(ranks, axis=1)[:, n_runs // 4 : n_runs - n_runs // 4]
    weights = np.zeros((N_BAND_RESAMPLES, n_runs))
    np.add.at(weights, (np.arange(N_BAND_RESAMPLES)[:, None], middle), 1 / middle.shape[1])
    return weights


def _make_band_without_interval(value: Array) -> Band:
    nan = np.full(len(value), np.nan)
    return Band(value, nan, nan)
