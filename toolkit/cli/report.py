"""`toolkit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import Trust, show_notes


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Experiment and run directories.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to this directory. Default: report/ in the only experiment, or here.", show_default=False
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Evaluate runs without evaluation.json first, 100 episodes each.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Compare variants over seeds, with confidence intervals: HTML, Markdown, CSV, figures."""
    from toolkit.reports import write
    from toolkit.reports.contents import build_report
    from toolkit.reports.markdown import format_overview

    show_notes()
    directory = write.resolve_report_directory(directories, out)
    if evaluate:
        write.evaluate_missing(directories, trust)
    contents = build_report(directories)
    page = write.write_report(contents, directory, trust)
    print_line(f"{format_overview(contents)}\n{page}")
