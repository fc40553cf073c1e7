"""What is in a report, whatever it is written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.reports import captions
from toolkit.reports.collect import Gathered, gather
from toolkit.reports.compare import Comparison, compare, over_tasks
from toolkit.reports.figures import figures
from toolkit.reports.tables import Table, improvement_table, pairs_table, runs_table, summary_table
from toolkit.utils.errors import RunError


@dataclass(frozen=True)
class Figure:
    """A figure with its captions.

    :param file: where its SVG is, relative to the report
    """

    title: str
    caption: str
    svg: str
    file: str


@dataclass(frozen=True)
class Section:
    """What there is to say of one environment."""

    comparison: Comparison
    table: Table
    findings: tuple[str, ...]
    figures: tuple[Figure, ...]
    pairs: Table | None
    pairs_caption: str


@dataclass(frozen=True)
class Report:
    """All of a report but its videos."""

    gathered: Gathered
    headline: str
    notices: tuple[str, ...]
    sections: tuple[Section, ...]
    overall: Table | None
    overall_caption: str
    runs: Table
    methods: str


def read_report(directories: Sequence[Path]) -> Report:
    """Read runs and experiments, and say what they say.

    :raises RunError: if a directory is neither, a file in it is damaged, or no run has ended
    :raises ConfigError: if a run's config is none
    """
    gathered = gather(directories)
    if not any(run.has_ended for run in gathered.runs):
        told = "; ".join(captions.notices(gathered)[:1])
        going = any(run.status == "unfinished" for run in gathered.runs)
        hint = "wait for one" if going else "`toolkit resume RUN` goes on with one, `toolkit experiment FILE` with all"
        raise RunError(f"{directories[0]}: no run has ended{f': {told}' if told else ''}", hint)
    comparisons = compare(gathered.variants)
    overall = over_tasks(comparisons)
    names = [*dict.fromkeys(name for name, _ in overall)]
    return Report(
        gathered=gathered,
        headline=captions.headline(gathered),
        notices=tuple(captions.notices(gathered)),
        sections=tuple(_section(one, number) for number, one in enumerate(comparisons, start=1)),
        overall=improvement_table(names, overall) if overall else None,
        overall_caption=captions.overall_caption(len(comparisons)),
        runs=runs_table(gathered),
        methods=captions.METHODS,
    )


def _section(comparison: Comparison, number: int) -> Section:
    suffix = f"-{number}" if number > 1 else ""
    drawn = tuple(
        Figure(one.title, captions.caption(comparison, one.kind), one.svg, f"figures/{one.kind}{suffix}.svg")
        for one in figures(comparison)
    )
    several = len(comparison.summaries) > 1
    return Section(
        comparison=comparison,
        table=summary_table(comparison),
        findings=tuple(captions.findings(comparison)) if several else (),
        figures=drawn,
        pairs=pairs_table(comparison) if comparison.pairs else None,
        pairs_caption=captions.pairs_caption(comparison),
    )
