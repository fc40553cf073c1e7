"""The command ``toolkit``: its commands, and how it reports errors."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from toolkit.cli.config import check, schema
from toolkit.cli.describe import describe
from toolkit.cli.evaluate import evaluate
from toolkit.cli.experiment import experiment
from toolkit.cli.imports import import_agent, import_sb3, import_zoo
from toolkit.cli.output import flush_output, print_line, reserve_stdout
from toolkit.cli.plot import plot
from toolkit.cli.plugins import new_plugin, plugins
from toolkit.cli.report import report
from toolkit.cli.shared import report_interruption
from toolkit.cli.train import continue_, resume, train
from toolkit.cli.tune import tune
from toolkit.cli.video import record, watch
from toolkit.utils.errors import ConfigError, ToolkitError
from toolkit.utils.log import configure_logging

app = typer.Typer(
    help="Train, evaluate and record reinforcement-learning agents on Stable-Baselines3, from one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _run_in_order(command: Callable[..., None]) -> Callable[..., None]:
    """Let only the command's result reach stdout, and let a signal end it in order."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with report_interruption(), reserve_stdout():
            command(*args, **kwargs)

    return run


for _command in (
    train,
    resume,
    continue_,
    experiment,
    evaluate,
    record,
    watch,
    plot,
    report,
    describe,
    import_agent,
    import_sb3,
    import_zoo,
    tune,
    check,
    schema,
    plugins,
):
    app.command(_command.__name__.rstrip("_").replace("_", "-"))(_run_in_order(_command))
new = typer.Typer(no_args_is_help=True)
new.command("plugin")(_run_in_order(new_plugin))
app.add_typer(new, name="new", help="Create a package of your own.")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print_line(f"toolkit {version('sb3-toolkit')}")
        raise typer.Exit


@app.callback()
def _declare_common_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Declare the options of every command, for --help."""
    # `main` reads --debug itself: it needs it before the arguments are parsed.


def main() -> NoReturn:
    """Run the command line."""
    configure_logging()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        sys.exit(app(arguments, prog_name="toolkit", standalone_mode=True))
    except ToolkitError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        prefix = "" if isinstance(error, ConfigError) else "error: "  # its lines start with FILE:LINE
        typer.echo(f"{prefix}{error}", err=True)
        sys.exit(error.exit_status)
    finally:
        flush_output()
