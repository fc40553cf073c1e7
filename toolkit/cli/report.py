"""`toolkit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import Trust, pause_garbage_collection, show_notes
from toolkit.utils.errors import ToolkitError


def report(
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR", help="Experiment and run directories.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to this directory. Default: report/ in the run or experiment, or here for several. "
            "A file with --gallery.",
            show_default=False,
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Evaluate runs without evaluation.json first, 100 episodes each.")
    ] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(help="Write results and a GIF of each variant here, and one page of all.", show_default=False),
    ] = None,
    trust: Trust = False,
) -> None:
    """Show what a run learned, or compare variants over seeds with confidence intervals: HTML, Markdown, figures."""
    with pause_garbage_collection():
        from toolkit.reports import write

    show_notes()
    paths = directories or []
    if not paths and gallery is None:
        raise ToolkitError("no run is named", "name the directory of a run or of an experiment")
    if gallery is not None:
        _write_gallery(paths, gallery, out, evaluate, trust)
        return
    from toolkit.reports.contents import build_report
    from toolkit.reports.markdown import format_overview, format_run_overview
    from toolkit.reports.run_contents import build_run_report

    directory = write.resolve_report_directory(paths, out)
    if evaluate:
        write.evaluate_missing(paths, trust)
    if write.is_single_run(paths):
        run_contents = build_run_report(paths[0])
        page = write.write_run_report(run_contents, directory)
        print_line(f"{format_run_overview(run_contents)}\n{page}")
        return
    contents = build_report(paths)
    page = write.write_report(contents, directory, trust)
    print_line(f"{format_overview(contents)}\n{page}")


def _write_gallery(directories: list[Path], gallery: Path, out: Path | None, evaluate: bool, trust: bool) -> None:
    from toolkit.reports.gallery import write_gallery
    from toolkit.reports.gallery_page import format_entries
    from toolkit.reports.write import evaluate_missing

    if evaluate and directories:
        evaluate_missing(directories, trust)
    entries, page = write_gallery(directories, gallery, out, trust)
    print_line("\n".join([*format_entries(entries), f"{page}"]))
