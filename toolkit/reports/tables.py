"""The tables of a report, and how it writes numbers and estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.envs.episode_numbers import PART_PREFIX, REWARD_PREFIX
from toolkit.reports.collect import RunCollection
from toolkit.reports.compare import Comparison, Improvements, VariantSummary
from toolkit.reports.run_record import RAW_RETURN
from toolkit.reports.statistics import Estimate
from toolkit.utils.data import compute_mean
from toolkit.utils.errors import make_printable
from toolkit.utils.text import count_decimals, format_count, format_number

MISSING = "-"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    :param bold_cells: row and column of each cell that stands out
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold_cells: frozenset[tuple[int, int]] = frozenset()


def format_estimate(estimate: Estimate | None, decimals: int | None = None, percent: bool = False) -> str:
    """Write an estimate with its interval.

    :param decimals: by default as many as tell the ends of the interval apart
    """
    if estimate is None:
        return MISSING
    numbers = [estimate.value, *([estimate.low, estimate.high] if estimate.has_interval else [])]
    if percent:
        value, *interval = (f"{100 * number:.0f}" for number in numbers)
        return _add_interval(f"{value} %", interval)
    decimals = count_decimals(numbers) if decimals is None else decimals
    value, *interval = (
        "not reached" if math.isinf(number) else format_number(number, decimals, ",") for number in numbers
    )
    if math.isinf(estimate.high):
        return value if math.isinf(estimate.low) else f"{value} ({interval[0]} or more)"
    return _add_interval(value, interval)


def _add_interval(value: str, interval: Sequence[str]) -> str:
    return f"{value} ({' to '.join(interval)})" if interval else value


def make_summary_table(comparison: Comparison) -> Table:
    """Return one row for each variant."""
    has_criterion = any(summary.success_rate for summary in comparison.summaries)
    score = "final greedy return" if comparison.uses_greedy_returns else "return at the end of training"
    header = ["variant", "runs", *(["success rate", "median timesteps to success"] if has_criterion else []), score]
    rows = []
    for summary in comparison.summaries:
        cells = [summary.name, _count_runs(summary)]
        if has_criterion:
            median = summary.time_to_success.median if summary.time_to_success else None
            cells += [format_estimate(summary.success_rate, percent=True), format_estimate(median, decimals=0)]
        rows.append((*cells, format_estimate(summary.mean_score) + _count_scores(summary)))
    return Table(tuple(header), tuple(rows))


def _count_runs(summary: VariantSummary) -> str:
    n_ended, n_runs = len(summary.variant.ended_runs), len(summary.variant.runs)
    return str(n_runs) if n_ended == n_runs else f"{n_ended} of {n_runs}"


def _count_scores(summary: VariantSummary) -> str:
    """Say how many runs have a score, if not all that have ended."""
    n_scores, n_ended = len(summary.scores), len(summary.variant.ended_runs)
    return f" of {format_count(n_scores, 'run')}" if 0 < n_scores < n_ended else ""


def make_reward_table(comparison: Comparison) -> Table | None:
    """Return what each wrapper adds to the return, one row for each variant; None if no run has logged it."""
    means = {summary.name: _average_rewards(summary) for summary in comparison.summaries}
    names = [*dict.fromkeys(name for values in means.values() for name in values if name != RAW_RETURN)]
    shares = [RAW_RETURN, *(name for name in names if not name.startswith(PART_PREFIX))]
    parts = [name for name in names if name.startswith(PART_PREFIX)]
    rows = []
    for variant, values in means.items():
        if values:
            shaped = sum(values.get(name, 0.0) for name in shares)
            cells = [*(values.get(name) for name in shares), shaped, *(values.get(name) for name in parts)]
            rows.append((variant, *(MISSING if cell is None else format_number(cell, 2, ",") for cell in cells)))
    header = [make_printable(name.removeprefix(REWARD_PREFIX)) for name in (*shares, "shaped return", *parts)]
    return Table(("variant", *header), tuple(rows)) if rows else None


def _average_rewards(summary: VariantSummary) -> dict[str, float]:
    """Return the means over the ended runs of a variant that have logged them."""
    runs = [run.reward_means for run in summary.variant.ended_runs if run.reward_means]
    names = dict.fromkeys(name for means in runs for name in means)
    return {name: compute_mean([means.get(name, 0.0) for means in runs]) for name in names}


def make_improvement_table(improvements: Improvements) -> Table:
    """Return how probably the variant of a row scores higher than that of a column."""
    names = [*dict.fromkeys(name for name, _ in improvements)]
    rows = [
        (name, *(format_estimate(improvements[name, other], percent=True) if name != other else "" for other in names))
        for name in names
    ]
    bold_cells = {
        (names.index(first), names.index(second) + 1)
        for (first, second), estimate in improvements.items()
        if estimate.has_interval and not estimate.low <= 0.5 <= estimate.high
    }
    return Table(("higher than →", *names), tuple(rows), frozenset(bold_cells))


def make_run_table(collection: RunCollection) -> Table:
    """Return one row for each run."""
    header = ("variant", "seed", "status", "timesteps", "episodes", "success at", "training", "greedy", "directory")
    rows = [
        (
            variant.name,
            str(run.seed),
            run.status,
            f"{run.timesteps:,}",
            f"{run.episodes:,}",
            MISSING if run.success_timestep is None else f"{run.success_timestep:,}",
            MISSING if run.training_return is None else format_number(run.training_return, 1, ","),
            MISSING if run.greedy_return is None else format_number(run.greedy_return, 1, ","),
            make_printable(str(run.directory)),
        )
        for variant in collection.variants
        for run in variant.runs
    ]
    return Table(header, tuple(rows))
