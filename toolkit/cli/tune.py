"""`toolkit tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import Overrides, exit_if_stopped, preload_after_check


def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Tuning file.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Write to this directory. Default: tunings/NAME.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the directory.")] = False,
) -> None:
    """Search a config's values with Optuna. Run again to continue the search."""
    from toolkit.config import yaml_document

    with preload_after_check():
        yaml_document.read(file)  # report a bad file before the slow imports
    from toolkit.tuning.display import TuningDisplay, format_tuning_summary
    from toolkit.tuning.tune import tune as run_search

    with TuningDisplay(quiet) as display:
        result = run_search(file, overrides or [], out, display.show)
    print_line(f"{result.directory}" if quiet else format_tuning_summary(result))
    exit_if_stopped(result.stopped_by)
