"""`toolkit experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import EXIT_FAILED, Overrides, exit_if_stopped, preload_after_check


def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to this directory. Default: experiments/NAME.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm more than 1,000 runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the directory.")] = False,
) -> None:
    """Train and evaluate every variant with every seed. Run again to continue."""
    from toolkit.experiments.config import load_plan

    with preload_after_check():
        plan = load_plan(file, overrides or [], yes)
    from toolkit.experiments.display import create_display  # imports torch while the launcher prepares
    from toolkit.experiments.runner import run_experiment
    from toolkit.experiments.summary import format_failures, format_summary

    result = run_experiment(plan, out, None if quiet else create_display())
    print_line(f"{result.directory}" if quiet else format_summary(result))
    if quiet and result.failed:
        typer.echo("\n".join(format_failures(result)), err=True)
    exit_if_stopped(result.stopped_by)
    if result.failed:
        raise typer.Exit(EXIT_FAILED)
