"""Estimates with 95 % intervals from the scores of runs on several seeds.

Interquartile mean, stratified percentile bootstrap, probability of improvement and performance profiles follow
Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. Every function
has its own random generator: equal scores give equal intervals.

Parameters named ``tasks`` hold the scores of one method: one array of shape (runs,) per task, with at least one run.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, binomtest, ecdf, trim_mean

Array = NDArray[np.float64]

CONFIDENCE_LEVEL = 0.95
N_RESAMPLES = 10_000
N_BAND_RESAMPLES = 2_000  # for each point of a curve
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

    :return: an estimate without an interval if a task has a single run, because resampling cannot show how runs differ
    """
    value = float(trim_mean(np.concatenate([*tasks]), 0.25))
    if min(map(len, tasks)) < 2:
        return Estimate(value, np.nan, np.nan)
    batch_size = max(1, _MAX_BATCH_NUMBERS // sum(map(len, tasks)))
    means = [trim_mean(scores, 0.25, axis=1) for scores in _draw_resamples(tasks, N_RESAMPLES, batch_size)]
    return Estimate(value, *map(float, np.quantile(np.concatenate(means), _INTERVAL_QUANTILES)))


def estimate_probability_of_improvement(tasks: Sequence[Array], other_tasks: Sequence[Array]) -> Estimate:
    """Estimate how probably a run of one method scores higher than a run of another; a tie counts half.

    The probability is averaged over tasks. Scores of different tasks are never compared, so their scales may differ.

    :return: an estimate without an interval if either method has a single run on a task
    """
    rng = np.random.default_rng(0)
    values, resampled = [], np.zeros(N_RESAMPLES)
    for scores, other_scores in zip(tasks, other_tasks, strict=True):
        wins = np.heaviside(scores[:, None] - other_scores[None, :], 0.5)
        values.append(wins.mean())
        counts = _draw_counts(len(scores), N_RESAMPLES, rng)
        shares = _draw_shares_below(len(other_scores), N_RESAMPLES, rng)
        n_lower, n_not_higher = (np.searchsorted(np.sort(other_scores), scores, side) for side in ("left", "right"))
        resampled += (counts * (shares[:, n_lower] + shares[:, n_not_higher])).sum(axis=1) / (
            2 * len(scores) * len(tasks)
        )
    value = float(np.mean(values))
    if min(map(len, [*tasks, *other_tasks])) < 2:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *map(float, np.quantile(resampled, _INTERVAL_QUANTILES)))


def estimate_performance_profile(tasks: Sequence[Array], thresholds: Array) -> Band:
    """Estimate the share of runs, over all tasks, that score higher than each threshold."""
    rng = np.random.default_rng(0)
    n_runs = sum(map(len, tasks))
    share = sum((scores[:, None] > thresholds).sum(axis=0) for scores in tasks) / n_runs
    if min(map(len, tasks)) < 2:
        return _make_band_without_interval(share)
    resampled = np.zeros((N_BAND_RESAMPLES, len(thresholds)))
    for scores in tasks:
        shares = _draw_shares_below(len(scores), N_BAND_RESAMPLES, rng)
        resampled += (1 - shares[:, np.searchsorted(np.sort(scores), thresholds, "right")]) * len(scores) / n_runs
    return Band(share, *np.quantile(resampled, _INTERVAL_QUANTILES, axis=0))


def estimate_interquartile_curve(curves: Array) -> Band:
    """Estimate the interquartile mean of several curves at each point.

    :param curves: of shape (runs, points)
    """
    n_runs = len(curves)
    value = trim_mean(curves, 0.25, axis=0)
    if n_runs < 2:
        return _make_band_without_interval(value)
    # einsum does not use BLAS, whose threads would wait for each other longer than this takes
    means = np.einsum("rk,kp->rp", _draw_middle_weights(n_runs), np.sort(curves, axis=0))
    return Band(value, *np.quantile(means, _INTERVAL_QUANTILES, axis=0))


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


def _draw_counts(n_runs: int, n_resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``n_runs`` runs with replacement; return how often each was drawn, of shape (resamples, runs)."""
    return rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=n_resamples)


def _draw_shares_below(n_runs: int, n_resamples: int, rng: np.random.Generator) -> Array:
    """Draw ``n_runs`` runs with replacement; return the share among the lowest 0, 1, ..., n_runs of them.

    :return: of shape (resamples, runs + 1)
    """
    shares = np.zeros((n_resamples, n_runs + 1))
    np.cumsum(_draw_counts(n_runs, n_resamples, rng), axis=1, out=shares[:, 1:])
    return shares / n_runs


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
