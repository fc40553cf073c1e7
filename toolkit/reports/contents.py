"""The contents of a report, before it is written as HTML, Markdown or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.reports import captions
from toolkit.reports.collect import RunCollection, collect_runs
from toolkit.reports.compare import Comparison, average_improvements, compare_variants
from toolkit.reports.figures import ReportFigure, draw_figures
from toolkit.reports.tables import (
    Table,
    make_improvement_table,
    make_reward_table,
    make_run_table,
    make_summary_table,
)
from toolkit.utils.errors import RunError


@dataclass(frozen=True)
class Section:
    """What a report says of one environment.

    :param figures: by their files, relative to the directory of the report
    :param rewards: what each wrapper adds to the return, if runs have logged it
    :param pairs: probability of improvement of each variant over each other, if two have scores
    """

    comparison: Comparison
    table: Table
    findings: tuple[str, ...]
    figures: dict[str, ReportFigure]
    rewards: Table | None
    pairs: Table | None
    pairs_caption: str


@dataclass(frozen=True)
class Report:
    """Everything in a report except its videos.

    :param overall: probability of improvement over all environments, if there are several
    """

    collection: RunCollection
    headline: str
    notices: tuple[str, ...]
    sections: tuple[Section, ...]
    overall: Table | None
    overall_caption: str
    runs: Table
    rewards_caption: str
    methods: str


def build_report(directories: Sequence[Path]) -> Report:
    """Read runs and experiments, and compare their variants.

    :raises RunError: if a directory is neither a run nor an experiment, a file in it is damaged, or no run has ended
    :raises ConfigError: if the config of a run is not valid
    """
    collection = collect_runs(directories)
    notices = captions.list_notices(collection)
    if not any(run.has_ended for run in collection.runs):
        is_training = any(run.status == "unfinished" for run in collection.runs)
        hint = (
            "wait for a run to end"
            if is_training
            else "continue with `toolkit resume RUN` or `toolkit experiment FILE`"
        )
        raise RunError(": ".join([f"{directories[0]}", "no run has ended", *notices[:1]]), hint)
    comparisons = compare_variants(collection.variants)
    improvements = average_improvements(comparisons)
    return Report(
        collection=collection,
        headline=captions.write_headline(collection),
        notices=tuple(notices),
        sections=tuple(_build_section(comparison, number) for number, comparison in enumerate(comparisons, start=1)),
        overall=make_improvement_table(improvements) if improvements else None,
        overall_caption=captions.write_overall_caption(len(comparisons)),
        runs=make_run_table(collection),
        rewards_caption=captions.REWARDS_CAPTION,
        methods=captions.METHODS,
    )


def _build_section(comparison: Comparison, number: int) -> Section:
    suffix = f"-{number}" if number > 1 else ""
    return Section(
        comparison=comparison,
        table=make_summary_table(comparison),
        findings=tuple(captions.list_findings(comparison)) if len(comparison.summaries) > 1 else (),
        figures={f"figures/{figure.kind}{suffix}.svg": figure for figure in draw_figures(comparison)},
        rewards=make_reward_table(comparison),
        pairs=make_improvement_table(comparison.improvements) if comparison.improvements else None,
        pairs_caption=captions.write_pairs_caption(comparison),
    )
