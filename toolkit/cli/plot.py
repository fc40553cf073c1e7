"""`toolkit plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import RunPaths, open_run, pause_garbage_collection


def plot(
    runs: RunPaths = None,
    by: Annotated[
        Literal["timestep", "episode"], typer.Option(help="Count timesteps or episodes on the x-axis.")
    ] = "timestep",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to this .png or .svg file. Default: learning_curve.png in the run, learning_curves.png here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw learning curves: the raw return of training episodes and its moving average."""
    with pause_garbage_collection():
        opened_runs = [open_run(run) for run in runs] if runs else [open_run(None)]
        from toolkit.evaluation.learning_curves import plot as plot_runs

    print_line(plot_runs(opened_runs, out, by))
