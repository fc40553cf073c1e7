"""What a report says in tables, and how an estimate is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.reports.collect import Gathered, Variant
from toolkit.reports.compare import Comparison, Summary
from toolkit.reports.statistics import Estimate
from toolkit.utils.errors import readable

_NOTHING = "-"
_LARGEST_IN_FULL = 1e12


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    :param strong: rows and columns of the cells that stand out
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[tuple[int, int]] = frozenset()


def plural(count: int, what: str) -> str:
    """Write a number of things."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def number(one: float, places: int) -> str:
    """Write a number with as many decimal places, or a very large one with its power of ten."""
    return f"{one:,.{places}f}" if abs(one) < _LARGEST_IN_FULL else f"{one:.6g}"


def estimate(one: Estimate | None, digits: int | None = None, percent: bool = False) -> str:
    """Write an estimate with its interval; of several digits as many as matter, or as many as are said."""
    if one is None:
        return _NOTHING
    ends = [one.value, *([one.low, one.high] if one.has_interval else [])]
    if percent:
        value, *interval = (f"{100 * end:.0f}" for end in ends)
        return f"{value} %" + (f" ({' to '.join(interval)})" if interval else "")
    places = _places(ends) if digits is None else digits
    value, *interval = ("not reached" if math.isinf(end) else number(end, places) for end in ends)
    if math.isinf(one.high):
        return value if math.isinf(one.low) else f"{value} ({interval[0]} or more)"
    return value + (f" ({' to '.join(interval)})" if interval else "")


def _places(ends: Sequence[float]) -> int:
    """Return how many decimal places tell the ends of an interval apart."""
    width = max(ends) - min(ends) or abs(ends[0]) / 100
    return min(6, max(0, 1 - math.floor(math.log10(width)))) if width else 0


def summary_table(comparison: Comparison) -> Table:
    """Return one row for each variant."""
    judged = any(one.success for one in comparison.summaries)
    score = "final greedy return" if comparison.greedy else "return at the end of training"
    header = ("variant", "runs", *(("success rate", "median timesteps to success") if judged else ()), score)
    rows = []
    for one in comparison.summaries:
        cells = [one.name, _counts(one.variant)]
        if judged:
            cells.append(estimate(one.success, percent=True))
            cells.append(estimate(one.times.median if one.times else None, digits=0))
        rows.append((*cells, estimate(one.score) + _few(one)))
    return Table(header, tuple(rows))


def _counts(variant: Variant) -> str:
    ended, runs = len(variant.ended), len(variant.runs)
    return str(runs) if ended == runs else f"{ended} of {runs}"


def _few(summary: Summary) -> str:
    """Say of how many runs a score is, where it is not of all that have ended."""
    scored, ended = len(summary.scores), len(summary.variant.ended)
    return f" of {plural(scored, 'run')}" if 0 < scored < ended else ""


def pairs_table(comparison: Comparison) -> Table:
    """Return how probably the variant of a row scores higher than that of a column."""
    return improvement_table([one.name for one in comparison.compared], comparison.pairs)


def improvement_table(names: Sequence[str], pairs: Mapping[tuple[str, str], Estimate]) -> Table:
    """Return how probably each scores higher than each other."""
    rows = [
        (name, *(estimate(pairs[name, other], percent=True) if name != other else "" for other in names))
        for name in names
    ]
    places = {name: place for place, name in enumerate(names)}
    strong = {(places[one], places[other] + 1) for (one, other), pair in pairs.items() if _is_clear(pair)}
    return Table(("higher than →", *names), tuple(rows), frozenset(strong))


def _is_clear(pair: Estimate) -> bool:
    return pair.has_interval and not pair.low <= 0.5 <= pair.high


def runs_table(gathered: Gathered) -> Table:
    """Return one row for each run."""
    header = ("variant", "seed", "status", "timesteps", "episodes", "success at", "training", "greedy", "directory")
    rows = [
        (
            variant.name,
            str(run.seed),
            run.status,
            f"{run.timesteps:,}",
            f"{run.episodes:,}",
            _NOTHING if run.solved_at is None else f"{run.solved_at:,}",
            _NOTHING if run.training_return is None else number(run.training_return, 1),
            _NOTHING if run.greedy_return is None else number(run.greedy_return, 1),
            readable(str(run.directory)),
        )
        for variant in gathered.variants
        for run in variant.runs
    ]
    return Table(header, tuple(rows))
