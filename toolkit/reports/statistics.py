"""What runs on several seeds allow to say: estimates with 95 % intervals, out of arrays of numbers.

Interquartile mean, stratified percentile bootstrap, probability of improvement and performance profiles are those of
Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021. Nothing here depends on
the clock or on a global generator: equal numbers give equal intervals.

``tasks`` are the scores of one method: for each task an array of shape (runs,), with at least one run.
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

LEVEL = 0.95
RESAMPLES = 10_000
BAND_RESAMPLES = 2_000  # of each point of a curve
_AT_ONCE = 1 << 22  # numbers in memory
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, whose ends are NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not np.isnan(self.low)


@dataclass(frozen=True)
class Band:
    """A curve and its 95 % interval point by point, each of shape (points,); NaN where there is no interval."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class EventTimes:
    """When something happened, by Kaplan and Meier.

    :param times: where the share changes, from 0 on, of shape (points,)
    :param share: of how many it has happened by then, with its log-log interval
    :param median: the first time by which it has happened to half of them, and its interval (Brookmeyer and Crowley);
        infinite where that is not reached
    """

    times: Array
    share: Band
    median: Estimate


def interquartile_mean(tasks: Sequence[Array]) -> Estimate:
    """Return the mean of the middle half of all scores: of n scores, n // 4 at each end are left out.

    :return: no interval for a task with a single run: resampling cannot say how runs differ
    """
    value = float(trim_mean(np.concatenate([*tasks]), 0.25))
    if min(map(len, tasks)) < 2:
        return Estimate(value, np.nan, np.nan)
    batch = max(1, _AT_ONCE // sum(map(len, tasks)))
    means = [trim_mean(scores, 0.25, axis=1) for scores in _resampled(tasks, RESAMPLES, batch)]
    return Estimate(value, *map(float, np.quantile(np.concatenate(means), _TAILS)))


def probability_of_improvement(ours: Sequence[Array], theirs: Sequence[Array]) -> Estimate:
    """Return how probably a run of ours scores higher than one of theirs on the same task, a tie counting half.

    Averaged over tasks, so that only scores of one task are compared: their scales may differ.

    :return: no interval where a task has a single run on either side
    """
    random = np.random.default_rng(0)
    values, resampled = [], np.zeros(RESAMPLES)
    for our, their in zip(ours, theirs, strict=True):
        wins = np.heaviside(our[:, None] - their[None, :], 0.5)
        values.append(wins.mean())
        counts, below = _counts(len(our), RESAMPLES, random), _shares_below(len(their), RESAMPLES, random)
        lower, upto = (np.searchsorted(np.sort(their), our, side) for side in ("left", "right"))
        resampled += (counts * (below[:, lower] + below[:, upto])).sum(axis=1) / (2 * len(our) * len(ours))
    value = float(np.mean(values))
    if min(map(len, [*ours, *theirs])) < 2:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *map(float, np.quantile(resampled, _TAILS)))


def performance_profile(tasks: Sequence[Array], thresholds: Array) -> Band:
    """Return the share of runs that score more than each threshold, over all tasks."""
    random = np.random.default_rng(0)
    runs = sum(map(len, tasks))
    share = sum((scores[:, None] > thresholds).sum(axis=0) for scores in tasks) / runs
    if min(map(len, tasks)) < 2:
        return _without_interval(share)
    resampled = np.zeros((BAND_RESAMPLES, len(thresholds)))
    for scores in tasks:
        below = _shares_below(len(scores), BAND_RESAMPLES, random)
        resampled += (1 - below[:, np.searchsorted(np.sort(scores), thresholds, "right")]) * len(scores) / runs
    return Band(share, *np.quantile(resampled, _TAILS, axis=0))


def interquartile_band(curves: Array) -> Band:
    """Return the interquartile mean of several curves, point by point.

    :param curves: of shape (runs, points)
    """
    runs = len(curves)
    value = trim_mean(curves, 0.25, axis=0)
    if runs < 2:
        return _without_interval(value)
    # einsum without BLAS, whose threads wait for one another longer than this takes
    means = np.einsum("rk,kp->rp", _middle_weights(runs), np.sort(curves, axis=0))
    return Band(value, *np.quantile(means, _TAILS, axis=0))


def success_rate(successes: int, runs: int) -> Estimate:
    """Return the share of runs that succeeded, with Wilson's interval; ``runs`` is at least 1."""
    interval = binomtest(successes, runs).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / runs, float(interval.low), float(interval.high))


def time_to_event(times: Array, happened: NDArray[np.bool_]) -> EventTimes:
    """Estimate when something happens from runs of which some were not watched until it did.

    Assumes that those had no other prospects than the rest.

    :param times: of each run, when it happened or until when the run was watched, of shape (runs,), above 0
    :param happened: whether it happened
    """
    estimated = ecdf(CensoredData(uncensored=times[happened], right=times[~happened])).cdf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no interval where it has happened to none or to all
        interval = estimated.confidence_interval(LEVEL, method="log-log")
    share = np.array([0.0, *estimated.probabilities])
    low = np.maximum.accumulate(np.nan_to_num([0.0, *interval.low.probabilities], nan=0.0))
    high = np.array(
        [0.0, *np.where(np.isnan(interval.high.probabilities), share[1:] > 0, interval.high.probabilities)]
    )
    steps = np.array([0.0, *estimated.quantiles])

    def first(reached: Array) -> float:
        return float(steps[np.argmax(reached >= 0.5)]) if reached[-1] >= 0.5 else np.inf

    return EventTimes(steps, Band(share, low, high), Estimate(first(share), first(high), first(low)))


def _resampled(tasks: Sequence[Array], resamples: int, batch: int) -> Iterator[Array]:
    """Draw as many runs as there are from each task, with replacement; give arrays of shape (batch, runs)."""
    random = np.random.default_rng(0)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        yield np.concatenate([task[random.integers(len(task), size=(size, len(task)))] for task in tasks], axis=1)


def _counts(runs: int, resamples: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many runs as there are, with replacement; return how often each came, of shape (resamples, runs)."""
    return random.multinomial(runs, np.full(runs, 1 / runs), size=resamples)


def _shares_below(runs: int, resamples: int, random: np.random.Generator) -> Array:
    """Draw as many runs; return what share of them is among the lowest 0, 1, ..., of shape (resamples, runs + 1)."""
    shares = np.zeros((resamples, runs + 1))
    np.cumsum(_counts(runs, resamples, random), axis=1, out=shares[:, 1:])
    return shares / runs


@lru_cache(maxsize=2)  # the variants of an experiment are of as many runs each
def _middle_weights(runs: int) -> Array:
    """Draw as many runs as there are, with replacement; return what each weighs in the middle half, by its rank.

    Shape (resamples, runs). At each point of curves a resample is made of ranks, and these may be the same at all
    points: the interval of each point is its own.
    """
    drawn = np.random.default_rng(0).integers(runs, size=(BAND_RESAMPLES, runs))
    drawn = np.sort(drawn, axis=1)[:, runs // 4 : runs - runs // 4]
    weights = np.zeros((BAND_RESAMPLES, runs))
    np.add.at(weights, (np.arange(BAND_RESAMPLES)[:, None], drawn), 1 / drawn.shape[1])
    return weights


def _without_interval(value: Array) -> Band:
    nothing = np.full(len(value), np.nan)
    return Band(value, nothing, nothing)
