"""A report as text: Markdown, CSV, and the summary that a terminal shows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

from toolkit.reports.collect import VariantRuns
from toolkit.reports.contents import Report, Section
from toolkit.reports.figures import ReportFigure
from toolkit.reports.run_contents import RunReport
from toolkit.reports.run_record import RunRecord
from toolkit.reports.tables import Table
from toolkit.utils.errors import make_printable
from toolkit.utils.text import format_table

_COLUMNS = (
    "variant",
    "environment",
    "seed",
    "status",
    "reason",
    "timesteps",
    "episodes",
    "seconds",
    "success_timestep",
    "final_greedy_return",
    "greedy_episodes",
    "training_return",
    "directory",
)
_SPECIAL = re.compile(r"([\\`*_\[\]|~$#]|:(?=//)|(?<=www)\.)")  # GitHub makes links of addresses: the last two
_FORMULA_STARTS = ("=", "+", "-", "@")
_MAX_PATH_LENGTH = 4096  # characters


def to_csv(report: Report) -> str:
    """Return one row for each run; unknown values are empty."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for variant in report.collection.variants:
        for run in variant.runs:
            writer.writerow(map(_escape_formula, _list_values(variant, run)))
    return file.getvalue()


def _list_values(variant: VariantRuns, run: RunRecord) -> list[Any]:
    return [
        variant.name,
        variant.environment,
        run.seed,
        run.status,
        run.failure_reason,
        run.timesteps,
        run.episodes,
        run.seconds,
        run.success_timestep,
        run.greedy_return,
        run.greedy_episodes or None,
        run.training_return,
        make_printable(str(run.directory), _MAX_PATH_LENGTH),
    ]


def _escape_formula(value: Any) -> Any:
    """Quote text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def to_markdown(report: Report) -> str:
    """Return the report without its videos, with links to its figures."""
    blocks = [f"# {escape(report.collection.title)}", escape(report.headline), *_format_list(report.notices)]
    for section in report.sections:
        blocks += _format_section(section, report.rewards_caption)
    if report.overall:
        blocks += ["## All environments", _format_table(report.overall), escape(report.overall_caption)]
    blocks += ["## Methods", escape(report.methods)]
    return "\n\n".join(blocks) + "\n"


def to_run_markdown(report: RunReport) -> str:
    """Return the page of a run without its videos, with links to its figures."""
    blocks = [f"# {escape(report.title)}", escape(report.headline), *_format_list(report.notices)]
    blocks.append(_format_table(report.facts))
    for section in report.sections:
        blocks += [f"## {section.title}", *_format_figures(section.figures)]
        if section.table:
            blocks += [_format_table(section.table), escape(section.table_caption)]
    return "\n\n".join(blocks) + "\n"


def _format_figures(figures: Mapping[str, ReportFigure]) -> Iterator[str]:
    for file, figure in figures.items():
        yield from (f"### {figure.title}", f"![{escape(figure.title)}]({file})", escape(figure.caption))


def _format_section(section: Section, rewards_caption: str) -> list[str]:
    blocks = [f"## {escape(section.comparison.environment)}", _format_table(section.table)]
    blocks += _format_list(section.findings)
    blocks += _format_figures(section.figures)
    if section.rewards:
        blocks += ["### Parts of the return", _format_table(section.rewards), escape(rewards_caption)]
    if section.pairs:
        blocks += ["### Probability of improvement", _format_table(section.pairs), escape(section.pairs_caption)]
    return blocks


def format_overview(report: Report) -> str:
    """Return the headline, the notices and the tables of variants for a terminal."""
    blocks = [report.headline, *(f"note: {notice}" for notice in report.notices)]
    for section in report.sections:
        selection = {summary.name for summary in section.comparison.selection}
        rows = [row for row in section.table.rows if row[0] in selection]
        lines = format_table(section.table.header, rows)
        n_left_out = len(section.table.rows) - len(rows)
        if n_left_out:
            lines.append(f"and {n_left_out:,} more with lower scores, in the report")
        blocks += [section.comparison.environment, *(f"  {line}" for line in lines)]
    return "\n".join(blocks)


def format_run_overview(report: RunReport) -> str:
    """Return the headline, the notices and the facts of a run for a terminal."""
    lines = format_table(report.facts.header, report.facts.rows)
    return "\n".join(
        [report.headline, *(f"note: {notice}" for notice in report.notices), *(f"  {line}" for line in lines)]
    )


def _format_table(table: Table) -> str:
    rows = [
        [
            f"**{escape(cell)}**" if (row, column) in table.bold_cells else escape(cell)
            for column, cell in enumerate(cells)
        ]
        for row, cells in enumerate(table.rows)
    ]
    lines = [[*map(escape, table.header)], ["---"] * len(table.header), *rows]
    return join_cells(lines)


def join_cells(rows: Sequence[Sequence[str]]) -> str:
    """Return the lines of a table from cells of Markdown: its header, the line below that, and its rows."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _format_list(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escape(sentence)}" for sentence in sentences)] if sentences else []


def escape(text: str) -> str:
    """Escape text so that Markdown shows it unchanged."""
    return _SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
