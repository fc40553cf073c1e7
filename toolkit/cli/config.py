"""`toolkit check` and `toolkit schema`: configs checked here, and in editors."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import ConfigPath, Overrides, pause_garbage_collection, preload_after_check


def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Check a whole config, try its environment, and print it with every default."""
    from toolkit.config.load import load_config

    with preload_after_check():
        run_config = load_config(config, overrides or [])
    from toolkit.envs.trial import try_environment
    from toolkit.training.checks import log_config_warnings
    from toolkit.training.trainer import dry_run
    from toolkit.utils.log import log_problems

    log_config_warnings(run_config)  # first: they may explain why building fails
    numbers = dry_run(run_config)
    doubts = try_environment(run_config, numbers)
    log_problems(run_config.make_error(doubts))
    print_line(run_config.to_yaml(), end="")


@pause_garbage_collection()
def schema(
    file: Annotated[
        Literal["config", "experiment", "tuning"], typer.Argument(metavar="FILE", help="Kind of file.")
    ] = "config",
) -> None:
    """Print the JSON Schema of a config or another file, for editors."""
    from toolkit.config.json_schema import make_config_schema, make_file_schema

    match file:
        case "config":
            document = make_config_schema()
        case "experiment":
            from toolkit.experiments.config import ExperimentConfig

            document = make_file_schema(ExperimentConfig, "sb3-toolkit experiment")
        case "tuning":
            from toolkit.tuning.config import TuningConfig

            document = make_file_schema(TuningConfig, "sb3-toolkit search")
    print_line(json.dumps(document, indent=2))
