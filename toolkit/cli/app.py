"""The command ``toolkit``: parses arguments, prints, and exits; everything else is done by the modules it calls."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from toolkit.utils.errors import ConfigError, ToolkitError

if TYPE_CHECKING:
    from toolkit.training.run_directory import RunDirectory

CRITERION_NOT_MET = 3


app = typer.Typer(
    help="Reinforcement learning on Stable-Baselines3: one YAML file to a trained, proven, filmed agent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
new = typer.Typer(no_args_is_help=True)
app.add_typer(new, name="new", help="Start something of your own.")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
RunPath = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="A run directory; left out, the newest under runs/.")
]
RunPaths = Annotated[
    list[Path] | None, typer.Argument(metavar="RUN", help="Run directories; left out, the newest under runs/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: dotted path, YAML value. May be repeated."),
]
Tail = Annotated[
    int,
    typer.Option(min=0, max=1000, help="Frames that follow where the environment terminated, to see the fall."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code in files that the run names, from now on; read them first.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed in place of the config's.", show_default=False)]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take the options that every command has."""
    # `main` reads --debug itself: it also has to know before the arguments are parsed.


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, empty or absent.", show_default=False)] = None,
    require_success: Annotated[
        bool, typer.Option("--require-success", help="Exit with status 3 when the success criterion was not met.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run directory alone.")] = False,
) -> None:
    """Train an agent into a new run directory."""
    from toolkit.config.load import load_config

    with _preloading():
        loaded = load_config(config, [*(overrides or []), *([] if seed is None else [f"seed={seed}"])])
    from toolkit.training.callbacks import SuccessCriterion
    from toolkit.training.trainer import train as train_run

    if require_success and not any(issubclass(one.cls, SuccessCriterion) for one in loaded.components.callbacks):
        raise ToolkitError(f"{config}: --require-success needs a success criterion", "add the callback 'success'")

    _show_notes(quiet)
    run = train_run(loaded, out, progress_bar=not quiet)
    _say_how_it_went(run, quiet)
    if require_success and (run.result or {})["status"] != "success":
        raise typer.Exit(CRITERION_NOT_MET)


@app.command()
def resume(
    run: RunPath = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the run directory alone.")] = False,
    trust: Trust = False,
) -> None:
    """Go on with a run that was stopped or killed, exactly where its newest snapshot stands."""
    with _preloading():
        opened = _open(run, trust)
    from toolkit.training.trainer import resume as resume_run

    _show_notes(quiet)
    resume_run(opened, progress_bar=not quiet)
    _say_how_it_went(opened, quiet)


@app.command()
def experiment(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory; by default experiments/NAME.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Train more than 1,000 runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the directory alone.")] = False,
) -> None:
    """Train and evaluate every variant with every seed, or what is left of them."""
    from toolkit.experiments.config import load_plan

    with _preloading():
        plan = load_plan(file, overrides or [], yes)
    from toolkit.experiments.display import (  # torch is imported while the launcher gets ready
        display,
        failures,
        summary,
    )
    from toolkit.experiments.runner import run_experiment

    done = run_experiment(plan, out, None if quiet else display())
    _say(f"{done.directory}" if quiet else summary(done))
    if quiet and done.failed:
        typer.echo("\n".join(failures(done)), err=True)
    if done.stopped_by or done.failed:
        raise typer.Exit(128 + done.stopped_by if done.stopped_by else 1)


@app.command()
def evaluate(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes to play.")] = 100,
    seed: Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trust: Trust = False,
) -> None:
    """Play greedy episodes on fresh seeds and report their raw returns."""
    from dataclasses import asdict

    with _preloading():
        opened = _open(run, trust)
    from toolkit.evaluation.evaluate import evaluate as evaluate_run

    evaluation = evaluate_run(opened, episodes, seed)
    if as_json:
        typer.echo(json.dumps(asdict(evaluation)))
        return
    from toolkit.cli.text import returns

    typer.echo(returns(opened, evaluation))


@app.command()
def record(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes to record, a file each.")] = 1,
    video_format: Annotated[Literal["mp4", "gif"], typer.Option("--format", help="Format of the video.")] = "mp4",
    out: Annotated[
        Path | None, typer.Option(help="Directory of the videos; by default the run's.", show_default=False)
    ] = None,
    tail: Tail = 0,
    trust: Trust = False,
) -> None:
    """Record videos of the trained agent."""
    with _preloading():
        opened = _open(run, trust)
    from toolkit.evaluation.video import record as record_run

    for path in record_run(opened, episodes, [video_format], out, tail=tail):
        typer.echo(path)


@app.command()
def watch(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes to play.")] = 5,
    seed: Seed = None,
    tail: Tail = 0,
    trust: Trust = False,
) -> None:
    """Show the trained agent at play in a window, until it is closed or Ctrl-C."""
    from itertools import count

    with _preloading():
        opened = _open(run, trust)
    from toolkit.evaluation.viewer import watch as watch_run

    numbers = count(1)
    watch_run(
        opened,
        episodes,
        seed,
        tail,
        lambda episode: typer.echo(f"episode {next(numbers)}: return {episode.raw_return:g}"),
    )


@app.command()
def plot(
    runs: RunPaths = None,
    by: Annotated[Literal["timestep", "episode"], typer.Option(help="What is counted below.")] = "timestep",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .png or .svg file; by default learning_curve.png in the run, or learning_curves.png here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw learning curves: the raw return of training episodes and its moving average."""
    opened = [_open(run) for run in runs] if runs else [_open(None)]
    from toolkit.evaluation.learning_curves import plot as plot_runs

    typer.echo(plot_runs(opened, out, by))


@app.command()
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Experiments and runs.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory; by default report/ in an experiment, or else here.", show_default=False),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Play 100 greedy episodes of runs without evaluation.json first.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Compare variants over seeds, with intervals: a page to look at, Markdown, CSV, figures."""
    from toolkit.reports import write
    from toolkit.reports.contents import read_report
    from toolkit.reports.markdown import overview

    _show_notes(False)
    place = write.report_directory(directories, out)
    if evaluate:
        write.evaluate_missing(directories, trust)
    contents = read_report(directories)
    page = write.write_report(contents, place, trust)
    _say(f"{overview(contents)}\n{page}")


@app.command()
def describe(
    run: RunPath = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Draw them as well, to a .png or .svg file.", show_default=False)
    ] = None,
    trust: Trust = False,
) -> None:
    """Describe a run's networks: layers, output shapes, parameters."""
    from toolkit.utils.pictures import picture_format

    if picture:
        picture_format(picture)  # before a model is built for nothing
    with _preloading():
        opened = _open(run, trust)
    from toolkit.cli.text import networks
    from toolkit.evaluation.networks import describe_networks
    from toolkit.training.model import untrained_model

    model = untrained_model(opened.resolved_config)
    if picture:
        from toolkit.evaluation.network_diagram import draw_networks

        draw_networks(model, picture)
    typer.echo(networks(opened, describe_networks(model)))
    if picture:
        typer.echo(picture)


@app.command("import-sb3")
def import_sb3(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model that SB3 has saved.", show_default=False)],
    config: Annotated[
        Path, typer.Option(metavar="CONFIG", help="A config with its environment and networks.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Run directory, empty or absent.", show_default=False)] = None,
) -> None:
    """Make a run directory of an SB3 model.zip, of which the tensors alone are read."""
    from toolkit.config.load import load_config

    with _preloading():
        loaded = load_config(config)
    from toolkit.evaluation.summary import format_import_summary
    from toolkit.migration.sb3_model import import_sb3 as import_model

    run = import_model(file, loaded, out)
    typer.echo(format_import_summary(run, file))


@app.command("import-zoo")
def import_zoo(
    file: Annotated[Path, typer.Argument(metavar="FILE.yml", help="Hyperparameters of RL Zoo's.", show_default=False)],
    env_id: Annotated[str, typer.Argument(metavar="ENV_ID", help="A Gymnasium id.", show_default=False)],
    algorithm: Annotated[
        str, typer.Option(metavar="NAME", help="Whose file it is, as here or in Zoo.", show_default=False)
    ],
) -> None:
    """Print an entry of RL Zoo's hyperparameters as a config."""
    from toolkit.migration.rl_zoo.convert import import_zoo as import_entry

    typer.echo(import_entry(file, env_id, algorithm), nl=False)


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tuning file.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory; by default tunings/<name>, each time.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the directory alone.")] = False,
) -> None:
    """Search a config's values for the best; again, go on with the search."""
    from toolkit.config import yaml_document

    with _preloading():
        yaml_document.read(file)  # what is wrong with it is said before the seconds that the rest takes to import
    from toolkit.tuning.display import SearchDisplay, outcome
    from toolkit.tuning.tune import tune as search

    with SearchDisplay(quiet) as display:
        found = search(file, overrides or [], out, display.show)
    _say(f"{found.directory}" if quiet else outcome(found))
    if found.stopped_by:
        raise typer.Exit(128 + found.stopped_by)


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Check a config whole, and print it resolved."""
    from toolkit.config.load import load_config

    with _preloading():
        loaded = load_config(config, overrides or [])
    from toolkit.training.trainer import dry_run

    dry_run(loaded)
    typer.echo(loaded.to_yaml(), nl=False)


@app.command()
def schema(
    file: Annotated[Literal["config", "experiment", "tuning"], typer.Argument(help="What file it is for.")] = "config",
) -> None:
    """Print the JSON Schema of a config or another file, for editors."""
    from toolkit.config.json_schema import file_schema, json_schema

    match file:
        case "config":
            found = json_schema()
        case "experiment":
            from toolkit.experiments.config import ExperimentConfig

            found = file_schema(ExperimentConfig, "sb3-toolkit experiment")
        case "tuning":
            from toolkit.tuning.config import TuningConfig

            found = file_schema(TuningConfig, "sb3-toolkit search")
    typer.echo(json.dumps(found, indent=2))


@app.command()
def plugins(
    kind: Annotated[str | None, typer.Argument(help="algorithms, policies, wrappers, ...", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(help="A component, to see its parameters.", show_default=False)] = None,
) -> None:
    """List what can be named in a config and who provides it; or describe one component, with YAML to paste."""
    from toolkit.cli.text import component, listing
    from toolkit.config.registry import KINDS, kind_named

    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
    if kind and name:
        typer.echo(component(kind_named(kind), name, width))
        return
    for one in [kind_named(kind)] if kind else KINDS.values():
        typer.echo(listing(one, width))


@new.command("plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in Python: my_reward.", show_default=False)],
    kind: Annotated[
        Literal["wrapper", "callback", "algorithm", "policy", "schedule"],
        typer.Option(help="What it has one of, to begin with."),
    ] = "wrapper",
) -> None:
    """Write a plugin package into a new folder: a component, its tests, a config that uses it."""
    from toolkit.cli.scaffold import Plugin, write_plugin
    from toolkit.cli.text import begun
    from toolkit.config.registry import KINDS

    plugin = Plugin(name, next(one for one in KINDS.values() if one.singular == kind))
    typer.echo(begun(plugin, write_plugin(plugin)))


@contextmanager
def _preloading() -> Iterator[None]:
    """Import what training takes seconds to import, once what is in the block has gone well."""
    gc.disable()  # the block imports the half of it
    try:
        yield
        with suppress(ImportError):  # which the command's own imports meet where it can be said whose it is
            import toolkit.evaluation.preload  # noqa: F401
    finally:
        gc.enable()


def _show_notes(quiet: bool) -> None:
    import logging

    if not quiet:
        logging.getLogger("toolkit").setLevel(logging.INFO)


def _say_how_it_went(run: RunDirectory, quiet: bool) -> None:
    """Print how a training ended; exit as a process does that a signal has ended, if one has."""
    from toolkit.evaluation.summary import format_run_summary

    _say(f"{run.directory}" if quiet else format_run_summary(run))
    if run.stopped_by:
        raise typer.Exit(128 + run.stopped_by)


def _say(text: str) -> None:
    try:
        typer.echo(text)
    except OSError:  # nobody reads it any more, as when the terminal was closed; nor what Python writes when it ends
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def main() -> NoReturn:
    """Run the command line."""
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for level, name in ((logging.INFO, "note"), (logging.WARNING, "warning")):
        logging.addLevelName(level, name)
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
        _drop_what_nobody_reads()


def _drop_what_nobody_reads() -> None:
    """Flush what is printed, or forget it where terminal or pipe are gone: Python would end with status 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the program was started without
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open(run: Path | None, trust: bool = False) -> RunDirectory:
    from toolkit.config.load import trust_code
    from toolkit.training.run_directory import RunDirectory

    opened = RunDirectory.newest() if run is None else RunDirectory.open(run)
    if trust:
        trust_code(opened.config)
    return opened
