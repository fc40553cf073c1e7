"""Variants on one environment, side by side: what their runs allow to say of each and of each pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.reports.collect import Variant
from toolkit.reports.run_record import Outcome
from toolkit.reports.statistics import (
    Array,
    Band,
    Estimate,
    EventTimes,
    interquartile_band,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    success_rate,
    time_to_event,
)

MOST_DRAWN = 10  # variants in one picture or table of pairs; more cannot be told apart
_CURVE_POINTS = 100
_PROFILE_POINTS = 101


@dataclass(frozen=True)
class Curve:
    """A band over timesteps, and of how many runs it is."""

    timesteps: Array
    band: Band
    runs: int


@dataclass(frozen=True)
class Summary:
    """What the runs of a variant say; None where they say nothing.

    :param scores: of the runs that have ended and have one, of shape (runs,)
    :param score: interquartile mean of the scores
    :param solved: how many have met their success criterion, of those that ended and have one
    :param success: the share of them
    :param times: when the criterion was met; runs that were stopped before are censored
    """

    variant: Variant
    scores: Array
    score: Estimate | None
    solved: int
    success: Estimate | None
    times: EventTimes | None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name


@dataclass(frozen=True)
class Comparison:
    """Variants on one environment.

    :param greedy: whether scores are final greedy returns; else they are means over the last training episodes
    :param drawn: those to put into one picture: the best, if there are many
    :param curves: of those drawn, by their names: interquartile mean of the moving averages of training returns
    :param pairs: how probably one scores higher than another, by their names
    """

    task: str
    greedy: bool
    summaries: tuple[Summary, ...]
    drawn: tuple[Summary, ...]
    curves: dict[str, Curve]
    pairs: dict[tuple[str, str], Estimate]

    @property
    def compared(self) -> list[Summary]:
        """Those drawn that have scores."""
        return [one for one in self.drawn if len(one.scores)]

    def profiles(self) -> tuple[Array, list[Band]]:
        """Return thresholds of the score, and for each of ``compared`` the share of runs above."""
        scores = np.concatenate([one.scores for one in self.compared])
        margin = 0.02 * np.ptp(scores) or 1.0
        thresholds = np.linspace(scores.min() - margin, scores.max() + margin, _PROFILE_POINTS)
        return thresholds, [performance_profile([one.scores], thresholds) for one in self.compared]


def compare(variants: Sequence[Variant]) -> list[Comparison]:
    """Compare variants, environment by environment."""
    tasks = dict.fromkeys(variant.task for variant in variants)
    return [_comparison(task, [one for one in variants if one.task == task]) for task in tasks]


def over_tasks(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], Estimate]:
    """Return how probably one variant scores higher than another over all environments, if both are on all of several.

    Scores of different environments have no common scale, but who scores higher can be averaged.
    """
    if len(comparisons) < 2:
        return {}
    scores = [{one.name: one.scores for one in comparison.compared} for comparison in comparisons]
    common = [name for name in scores[0] if all(name in task for task in scores)]
    return {
        (one, other): probability_of_improvement([task[one] for task in scores], [task[other] for task in scores])
        for one in common
        for other in common
        if one != other
    }


def score_of(run: Outcome, greedy: bool) -> float | None:
    """Return what a run is judged by."""
    return run.greedy_return if greedy else run.training_return


def median_run(summary: Summary, greedy: bool) -> Outcome | None:
    """Return the run in the middle, by its score; any that has ended where none has one."""
    ended = [(score_of(run, greedy), run) for run in summary.variant.ended]
    scored = sorted(((score, run) for score, run in ended if score is not None), key=lambda pair: pair[0])
    if scored:
        return scored[len(scored) // 2][1]
    return ended[0][1] if ended else None


def _comparison(task: str, variants: Sequence[Variant]) -> Comparison:
    greedy = any(run.greedy_return is not None for variant in variants for run in variant.ended)
    summaries = tuple(_summary(variant, greedy) for variant in variants)
    drawn = summaries
    if len(summaries) > MOST_DRAWN:
        best = sorted(summaries, key=lambda one: one.score.value if one.score else -np.inf, reverse=True)
        names = {one.name for one in best[:MOST_DRAWN]}
        drawn = tuple(one for one in summaries if one.name in names)
    scored = [one for one in drawn if len(one.scores)]
    pairs = {}
    for one, other in itertools.combinations(scored, 2):
        pairs[one.name, other.name] = better = probability_of_improvement([one.scores], [other.scores])
        pairs[other.name, one.name] = Estimate(1 - better.value, 1 - better.high, 1 - better.low)
    curves = {one.name: curve for one in drawn if (curve := _curve(one.variant.ended))}
    return Comparison(task, greedy, summaries, drawn, curves, pairs)


def _summary(variant: Variant, greedy: bool) -> Summary:
    ended = variant.ended
    scores = [score for run in ended if (score := score_of(run, greedy)) is not None]
    judged = [run for run in ended if run.criterion]
    solved = sum(run.solved_at is not None for run in judged)
    return Summary(
        variant=variant,
        scores=np.array(scores, dtype=np.float64),
        score=interquartile_mean([np.array(scores)]) if scores else None,
        solved=solved,
        success=success_rate(solved, len(judged)) if judged else None,
        times=_times(variant.runs) if judged else None,
    )


def _times(runs: Sequence[Outcome]) -> EventTimes | None:
    watched = [(run.solved_at or run.timesteps, run.solved_at is not None) for run in runs if run.timesteps]
    if not watched:
        return None
    times, happened = zip(*watched, strict=True)
    return time_to_event(np.array(times, dtype=np.float64), np.array(happened))


def _curve(runs: Sequence[Outcome]) -> Curve | None:
    """Put runs on one grid, from where each has an episode to where the last ends; the others keep their value."""
    drawn = [run for run in runs if len(run.ends)]
    if not drawn:
        return None
    start, end = max(run.ends[0] for run in drawn), max(run.ends[-1] for run in drawn)
    grid = np.unique(np.linspace(start, end, _CURVE_POINTS).round())
    values = [run.averages[np.searchsorted(run.ends, grid, side="right") - 1] for run in drawn]
    return Curve(grid, interquartile_band(np.array(values)), len(drawn))
