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
    rewards: Annotated[
        bool, typer.Option("--rewards", help="Stack the parts of one run's returns, which log_rewards has logged.")
    ] = False,
    evaluations: Annotated[
        bool, typer.Option("--evaluations", help="Draw the evaluations during training, by timestep.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to this .png or .svg file. Default: learning_curve.png, rewards.png or "
            "evaluations.png in the run, learning_curves.png or evaluations.png here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw learning curves: the raw return of training episodes and its moving average."""
    if rewards and len(runs or ()) > 1:
        raise typer.BadParameter("takes one run", param_hint="--rewards")
    if evaluations and (rewards or by == "episode"):
        raise typer.BadParameter("cannot stand beside --rewards or --by episode", param_hint="--evaluations")
    with pause_garbage_collection():
        opened_runs = [open_run(run) for run in runs] if runs else [open_run(None)]
        from toolkit.evaluation.evaluation_curves import plot_evaluations
        from toolkit.evaluation.learning_curves import plot as plot_runs
        from toolkit.evaluation.reward_curves import plot_rewards

    if evaluations:
        print_line(plot_evaluations(opened_runs, out))
        return
    if rewards:
        print_line(plot_rewards(opened_runs[0], out, by))
        return
    print_line(plot_runs(opened_runs, out, by))
