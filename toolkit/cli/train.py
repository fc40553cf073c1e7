"""`toolkit train`, `toolkit resume` and `toolkit continue`."""

from __future__ import annotations

from typing import Annotated

import typer

from toolkit.cli.shared import (
    EXIT_CRITERION_NOT_MET,
    ConfigPath,
    Overrides,
    QuietRun,
    RunOut,
    RunPath,
    Seed,
    Trust,
    open_run,
    preload_after_check,
    preload_for_training,
    print_outcome,
    show_notes,
)
from toolkit.utils.errors import ToolkitError


def train(
    config: ConfigPath,
    overrides: Overrides = None,
    seed: Seed = None,
    out: RunOut = None,
    require_success: Annotated[
        bool, typer.Option("--require-success", help="Exit with status 3 if the success criterion is not met.")
    ] = False,
    or_resume: Annotated[
        bool,
        typer.Option("--or-resume", help="Resume the run in --out if it has started. Do nothing if it has ended."),
    ] = False,
    quiet: QuietRun = False,
) -> None:
    """Train an agent into a new run directory."""
    from toolkit.config.load import load_config

    if or_resume and out is None:
        raise ToolkitError("--or-resume needs the run directory", "name it with --out")
    with preload_after_check():
        run_config = load_config(config, [*(overrides or []), *([] if seed is None else [f"seed={seed}"])])
    preload_for_training(run_config)
    from toolkit.training.callbacks import SuccessCriterion
    from toolkit.training.checks import log_config_warnings
    from toolkit.training.trainer import train as train_run
    from toolkit.training.trainer import train_or_resume

    callbacks = run_config.components.callbacks
    if require_success and not any(issubclass(callback.cls, SuccessCriterion) for callback in callbacks):
        raise ToolkitError(f"{config}: --require-success needs a success criterion", "add the callback 'success'")

    show_notes(quiet)
    log_config_warnings(run_config)
    if out is not None and or_resume:
        run = train_or_resume(run_config, out, "choose another directory with --out", progress_bar=not quiet)
    else:
        run = train_run(run_config, out, progress_bar=not quiet)
    print_outcome(run, quiet)
    if require_success and (run.result or {})["status"] != "success":
        raise typer.Exit(EXIT_CRITERION_NOT_MET)


def resume(run: RunPath = None, quiet: QuietRun = False, trust: Trust = False) -> None:
    """Resume an interrupted run from its latest valid snapshot."""
    with preload_after_check():
        opened_run = open_run(run, trust)
    preload_for_training(opened_run.config)
    from toolkit.training.trainer import resume as resume_run

    show_notes(quiet)
    resume_run(opened_run, progress_bar=not quiet)
    print_outcome(opened_run, quiet)


def continue_(
    timesteps: Annotated[int, typer.Option(min=1, help="Train for this many more timesteps.", show_default=False)],
    run: RunPath = None,
    overrides: Overrides = None,
    out: RunOut = None,
    quiet: QuietRun = False,
    trust: Trust = False,
) -> None:
    """Train a run that has ended for more timesteps, in a new run directory."""
    from toolkit.training.continued import make_continued_config

    with preload_after_check():
        run_config = make_continued_config(open_run(run, trust), timesteps, overrides or [])
    preload_for_training(run_config)
    from toolkit.training.checks import log_config_warnings
    from toolkit.training.trainer import train as train_run

    show_notes(quiet)
    log_config_warnings(run_config)
    print_outcome(train_run(run_config, out, progress_bar=not quiet), quiet)
