"""What several commands share: their options, exit statuses, and how they open runs and print results."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.utils.signals import Interrupted, raise_on_signals

if TYPE_CHECKING:
    from toolkit.config.schema import RunConfig
    from toolkit.training.run_directory import RunDirectory

EXIT_FAILED = 1
EXIT_CRITERION_NOT_MET = 3
_SIGNAL_BASE = 128  # a shell's status of a process that a signal ended is this plus the signal's number

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config.", show_default=False)]
RunPath = Annotated[Path | None, typer.Argument(metavar="RUN", help="Run directory. Default: the newest in runs/.")]
RunPaths = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN", help="Run directories. Default: the newest in runs/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: dotted path, YAML value. Repeatable."),
]
Tail = Annotated[int, typer.Option(min=0, max=1000, help="Add frames after termination, to show the fall.")]
Model = Annotated[
    str, typer.Option(metavar="MODEL", help="Choose the model: final, best, or snapshot:N for timestep N.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Trust the Python files that the run names, from now on. Read them first.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Replace the config's seed.", show_default=False)]
RunOut = Annotated[
    Path | None,
    typer.Option(help="Choose the run directory. It must be empty or not exist.", show_default=False),
]
QuietRun = Annotated[bool, typer.Option("--quiet", help="Print only the run directory.")]


def open_run(path: Path | None, trust: bool = False) -> RunDirectory:
    """Open a run directory, or the newest one under runs/.

    :param trust: whether to remember the run's code files as trusted
    :raises RunError: if the run does not exist
    """
    from toolkit.config.load import trust_code
    from toolkit.training.run_directory import RunDirectory

    run = RunDirectory.newest() if path is None else RunDirectory.open(path)
    if trust:
        trust_code(run.config)
    return run


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no garbage in a block that imports modules: there is none, and to look takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def preload_after_check() -> Iterator[None]:
    """Import torch and SB3 after the block, which checks the input: bad input is reported without that wait."""
    with pause_garbage_collection():  # about half of the modules are imported in the block
        yield
        with suppress(ImportError):  # the command's own imports raise it again, where its cause can be named
            import toolkit.evaluation.preload  # noqa: F401


def preload_for_training(config: RunConfig) -> None:
    """Import PyTorch's compiler if training needs it."""
    from toolkit.experiments.launcher import list_slow_imports

    if list_slow_imports([config.algorithm.name]):
        with suppress(ImportError):
            import toolkit.evaluation.preload_compiler  # noqa: F401


def show_notes(quiet: bool = False) -> None:
    """Print the toolkit's log messages of level INFO, unless ``quiet``."""
    import logging

    if not quiet:
        logging.getLogger("toolkit").setLevel(logging.INFO)


def print_outcome(run: RunDirectory, quiet: bool) -> None:
    """Print how a training ended. Exit as a process that a signal ended, if one stopped it."""
    from toolkit.evaluation.summary import format_run_summary

    print_line(f"{run.directory}" if quiet else format_run_summary(run))
    exit_if_stopped(run.stopped_by)


def exit_if_stopped(signal_number: int | None) -> None:
    """Exit with the status of a process that a signal ended, if there was one."""
    if signal_number:
        raise typer.Exit(_SIGNAL_BASE + signal_number)


@contextmanager
def report_interruption() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM or SIGHUP end a command in order: it removes its temporary files, and says what ended it.

    :raises typer.Exit: then, with the status of a process that the signal ended
    """
    try:
        with raise_on_signals():
            yield
    except (KeyboardInterrupt, Interrupted) as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        with suppress(OSError):  # the terminal was closed
            typer.echo(f"interrupted by {signal.Signals(number).name}", err=True)
        exit_if_stopped(number)
