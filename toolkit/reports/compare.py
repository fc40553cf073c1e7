"""Compare variants on one environment: estimates for each variant and for each pair of variants."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.reports.collect import VariantRuns
from toolkit.reports.run_record import RunRecord
from toolkit.reports.statistics import (
    Array,
    Band,
    Estimate,
    EventTimes,
    estimate_interquartile_curve,
    estimate_interquartile_mean,
    estimate_performance_profile,
    estimate_probability_of_improvement,
    estimate_success_rate,
    estimate_time_to_event,
)

MAX_SELECTION = 10  # variants in one figure or table of pairs; nobody can tell more apart
_N_CURVE_POINTS = 100
_N_PROFILE_POINTS = 101

_RunCurve = tuple[NDArray[np.int64], Array]
Improvements = dict[tuple[str, str], Estimate]
"""How probably a run of the first variant scores higher than a run of the second, by their names."""


@dataclass(frozen=True)
class LearningCurve:
    """Interquartile mean of returns over timesteps, and of how many runs."""

    timesteps: Array
    band: Band
    n_runs: int


@dataclass(frozen=True)
class VariantSummary:
    """Estimates for one variant; an estimate is None if no run supports it.

    :param scores: scores of the ended runs that have one, of shape (runs,)
    :param mean_score: interquartile mean of the scores
    :param success_rate: share of the ended runs with a success criterion that met it
    :param time_to_success: when runs meet the criterion; runs that stopped before are censored
    """

    variant: VariantRuns
    scores: Array
    mean_score: Estimate | None
    success_rate: Estimate | None
    time_to_success: EventTimes | None

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.variant.name


@dataclass(frozen=True)
class Comparison:
    """Variants on one environment.

    :param uses_greedy_returns: whether scores are final greedy returns, or else means over the last training episodes
    :param selection: the variants in figures and pairs: all, or the best if there are many
    :param curves: learning curves of the selection, by the names of the variants
    :param improvements: for each pair of the selection
    :param evaluation_curves: for each label of an evaluation during training, curves of its mean returns as `curves`
    """

    environment: str
    uses_greedy_returns: bool
    summaries: tuple[VariantSummary, ...]
    selection: tuple[VariantSummary, ...]
    curves: dict[str, LearningCurve]
    improvements: Improvements
    evaluation_curves: dict[str, dict[str, LearningCurve]]

    @property
    def scored_selection(self) -> list[VariantSummary]:
        """The variants of the selection that have scores."""
        return _drop_unscored(self.selection)

    def estimate_profiles(self) -> tuple[Array, list[Band]]:
        """Return thresholds of the score, and for each of ``scored_selection`` the share of runs above them."""
        scores = np.concatenate([summary.scores for summary in self.scored_selection])
        margin = 0.02 * np.ptp(scores) or 1.0
        thresholds = np.linspace(scores.min() - margin, scores.max() + margin, _N_PROFILE_POINTS)
        bands = [estimate_performance_profile([summary.scores], thresholds) for summary in self.scored_selection]
        return thresholds, bands


def compare_variants(variants: Sequence[VariantRuns]) -> list[Comparison]:
    """Compare variants on each environment."""
    environments = dict.fromkeys(variant.environment for variant in variants)
    return [
        _compare_on_environment(name, [variant for variant in variants if variant.environment == name])
        for name in environments
    ]


def average_improvements(comparisons: Sequence[Comparison]) -> Improvements:
    """Average the probability of improvement over environments, for pairs of variants that are on all of them.

    Scores of different environments have no common scale, but which run scores higher can be averaged.

    :return: empty if there is only one environment
    """
    if len(comparisons) < 2:
        return {}
    scores = [{summary.name: summary.scores for summary in comparison.scored_selection} for comparison in comparisons]
    common_names = [name for name in scores[0] if all(name in by_name for by_name in scores)]
    return {
        (first, second): estimate_probability_of_improvement(
            [by_name[first] for by_name in scores], [by_name[second] for by_name in scores]
        )
        for first, second in itertools.permutations(common_names, 2)
    }


def get_score(run: RunRecord, uses_greedy_returns: bool) -> float | None:
    """Return the score of a run, if it has one."""
    return run.greedy_return if uses_greedy_returns else run.training_return


def select_median_run(variant: VariantRuns, uses_greedy_returns: bool) -> RunRecord | None:
    """Return the ended run with the median score (the upper of two), or any ended run if none has a score."""
    runs = variant.ended_runs
    scored = [(score, run) for run in runs if (score := get_score(run, uses_greedy_returns)) is not None]
    if scored:
        scored.sort(key=lambda pair: pair[0])
        return scored[len(scored) // 2][1]
    return runs[0] if runs else None


def _compare_on_environment(environment: str, variants: Sequence[VariantRuns]) -> Comparison:
    uses_greedy_returns = any(run.greedy_return is not None for variant in variants for run in variant.ended_runs)
    summaries = tuple(_summarize(variant, uses_greedy_returns) for variant in variants)
    selection = _select_best(summaries)
    curves = {summary.name: curve for summary in selection if (curve := _estimate_curve(_list_curves(summary)))}
    improvements = _estimate_improvements(_drop_unscored(selection))
    return Comparison(
        environment, uses_greedy_returns, summaries, selection, curves, improvements, _estimate_evaluations(selection)
    )


def _list_curves(summary: VariantSummary) -> list[_RunCurve]:
    return [(run.curve_timesteps, run.curve_returns) for run in summary.variant.ended_runs]


def _estimate_evaluations(selection: Sequence[VariantSummary]) -> dict[str, dict[str, LearningCurve]]:
    runs = [run for summary in selection for run in summary.variant.ended_runs]
    curves: dict[str, dict[str, LearningCurve]] = {}
    for label in dict.fromkeys(label for run in runs for label in run.evaluations):
        curves[label] = {}
        for summary in selection:
            evaluated = [run.evaluations[label] for run in summary.variant.ended_runs if label in run.evaluations]
            if curve := _estimate_curve(evaluated):
                curves[label][summary.name] = curve
    return curves


def _select_best(summaries: tuple[VariantSummary, ...]) -> tuple[VariantSummary, ...]:
    """Return the variants with the highest scores in their own order, or all if they are few."""
    if len(summaries) <= MAX_SELECTION:
        return summaries

    def rank(summary: VariantSummary) -> float:
        return summary.mean_score.value if summary.mean_score else -np.inf

    names = {summary.name for summary in sorted(summaries, key=rank, reverse=True)[:MAX_SELECTION]}
    return tuple(summary for summary in summaries if summary.name in names)


def _drop_unscored(summaries: Sequence[VariantSummary]) -> list[VariantSummary]:
    return [summary for summary in summaries if len(summary.scores)]


def _estimate_improvements(summaries: Sequence[VariantSummary]) -> Improvements:
    improvements = {}
    for first, second in itertools.combinations(summaries, 2):
        estimate = estimate_probability_of_improvement([first.scores], [second.scores])
        improvements[first.name, second.name] = estimate
        improvements[second.name, first.name] = Estimate(1 - estimate.value, 1 - estimate.high, 1 - estimate.low)
    return improvements


def _summarize(variant: VariantRuns, uses_greedy_returns: bool) -> VariantSummary:
    runs = variant.ended_runs
    scores = [score for run in runs if (score := get_score(run, uses_greedy_returns)) is not None]
    runs_with_criterion = [run for run in runs if run.criterion]
    n_successes = sum(run.success_timestep is not None for run in runs_with_criterion)
    return VariantSummary(
        variant=variant,
        scores=np.array(scores, dtype=np.float64),
        mean_score=estimate_interquartile_mean([np.array(scores)]) if scores else None,
        success_rate=estimate_success_rate(n_successes, len(runs_with_criterion)) if runs_with_criterion else None,
        time_to_success=_estimate_time_to_success(variant.runs) if runs_with_criterion else None,
    )


def _estimate_time_to_success(runs: Sequence[RunRecord]) -> EventTimes | None:
    observations = [
        (run.success_timestep or run.timesteps, run.success_timestep is not None) for run in runs if run.timesteps
    ]
    if not observations:
        return None
    times, successes = zip(*observations, strict=True)
    return estimate_time_to_event(np.array(times, dtype=np.float64), np.array(successes))


def _estimate_curve(curves: Sequence[_RunCurve]) -> LearningCurve | None:
    """Put runs on one grid: from where each has a value to where the last run ends; earlier ones keep their value.

    :return: None if no run has a value
    """
    curves = [(timesteps, values) for timesteps, values in curves if len(timesteps)]
    if not curves:
        return None
    start, end = max(timesteps[0] for timesteps, _ in curves), max(timesteps[-1] for timesteps, _ in curves)
    grid = np.unique(np.linspace(start, end, _N_CURVE_POINTS).round())
    values = [values[np.searchsorted(timesteps, grid, side="right") - 1] for timesteps, values in curves]
    return LearningCurve(grid, estimate_interquartile_curve(np.array(values)), len(curves))
