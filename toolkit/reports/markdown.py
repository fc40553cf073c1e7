"""A report as text: Markdown, CSV, and the few lines that a terminal shows."""

from __future__ import annotations

import csv
import re
from io import StringIO
from typing import Any

from toolkit.reports.contents import Report
from toolkit.reports.tables import Table
from toolkit.utils.errors import readable

_ABOUT = ("variant", "environment", "seed", "status", "reason", "timesteps", "episodes", "seconds")
_JUDGED = ("success_timestep", "final_greedy_return", "greedy_episodes", "training_return", "directory")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$#]|:(?=//)|(?<=www)\.)")  # the last two: GitHub makes links of addresses
_LONGEST_PATH = 4096  # characters


def csv_of(report: Report) -> str:
    """Return one line for each run; what is not known is left empty."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_ABOUT, *_JUDGED])
    for variant in report.gathered.variants:
        for run in variant.runs:
            went = (run.status, run.reason, run.timesteps, run.episodes, run.seconds)
            judged = (run.solved_at, run.greedy_return, run.greedy_episodes or None, run.training_return)
            directory = readable(str(run.directory), _LONGEST_PATH)
            writer.writerow(map(_cell, [variant.name, variant.task, run.seed, *went, *judged, directory]))
    return file.getvalue()


def _cell(value: Any) -> Any:
    """Write text so that a spreadsheet takes it for no formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def markdown(report: Report) -> str:
    """Return the report but for its videos, with links to its figures."""
    blocks = [f"# {_plain(report.gathered.title)}", _plain(report.headline), *_list(report.notices)]
    for section in report.sections:
        blocks += [f"## {_plain(section.comparison.task)}", _table(section.table), *_list(section.findings)]
        for figure in section.figures:
            blocks += [
                f"### {figure.title}",
                f"![{_plain(figure.title)}]({figure.file})",
                _plain(figure.caption),
            ]
        if section.pairs:
            blocks += ["### Probability of improvement", _table(section.pairs), _plain(section.pairs_caption)]
    if report.overall:
        blocks += ["## All environments", _table(report.overall), _plain(report.overall_caption)]
    blocks += ["## Methods", _plain(report.methods)]
    return "\n\n".join(blocks) + "\n"


def overview(report: Report) -> str:
    """Return the tables of variants for a terminal."""
    blocks = []
    for section in report.sections:
        drawn = {one.name for one in section.comparison.drawn}
        shown = [row for row in section.table.rows if row[0] in drawn]
        rows = [section.table.header, *shown]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        left = len(section.table.rows) - len(shown)
        lines += [f"and {left:,} more, which score lower, in the report"] if left else []
        blocks.append("\n".join([section.comparison.task, *(f"  {line}" for line in lines)]))
    return "\n".join([report.headline, *(f"note: {notice}" for notice in report.notices), *blocks])


def _table(table: Table) -> str:
    rows = [
        [f"**{_plain(cell)}**" if (row, column) in table.strong else _plain(cell) for column, cell in enumerate(cells)]
        for row, cells in enumerate(table.rows)
    ]
    lines = [[*map(_plain, table.header)], ["---"] * len(table.header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(sentences: tuple[str, ...]) -> list[str]:
    return ["\n".join(f"- {_plain(one)}" for one in sentences)] if sentences else []


def _plain(text: str) -> str:
    """Write text so that Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
