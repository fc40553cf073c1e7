"""`toolkit import-agent`, `toolkit import-sb3`, `toolkit import-zoo`: models and hyperparameters from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import RunOut, pause_garbage_collection, preload_after_check

UntrainedStatistics = Annotated[
    bool, typer.Option("--untrained-statistics", help="Accept wrappers without the statistics of their training.")
]


def import_agent(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Agent that RL Zoo trained.", show_default=False)],
    out: RunOut = None,
    untrained_statistics: UntrainedStatistics = False,
) -> None:
    """Import an agent of RL Zoo into a run directory: weights, hyperparameters and statistics."""
    with preload_after_check():
        pass  # the directory is checked while it is read
    from toolkit.evaluation.summary import format_import_summary
    from toolkit.migration.rl_zoo.agent import import_agent as import_directory

    run = import_directory(directory, out, untrained_statistics=untrained_statistics)
    print_line(format_import_summary(run, directory))


def import_sb3(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Model that SB3 saved.", show_default=False)],
    config: Annotated[
        Path,
        typer.Option(metavar="CONFIG", help="Read environment and networks from this config.", show_default=False),
    ],
    vec_normalize: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read statistics that VecNormalize saved.", show_default=False),
    ] = None,
    out: RunOut = None,
    untrained_statistics: UntrainedStatistics = False,
) -> None:
    """Import an SB3 model.zip into a run directory. Only its tensors are read."""
    from toolkit.config.load import load_config

    with preload_after_check():
        run_config = load_config(config)
    from toolkit.evaluation.summary import format_import_summary
    from toolkit.migration.sb3_model import import_sb3 as import_model

    run = import_model(file, run_config, out, statistics=vec_normalize, untrained_statistics=untrained_statistics)
    files = [file] if vec_normalize is None else [file, vec_normalize]
    print_line(format_import_summary(run, *files))


@pause_garbage_collection()
def import_zoo(
    file: Annotated[Path, typer.Argument(metavar="FILE.yml", help="RL Zoo hyperparameters.", show_default=False)],
    env_id: Annotated[str, typer.Argument(metavar="ENV_ID", help="Gymnasium id.", show_default=False)],
    algorithm: Annotated[
        str,
        typer.Option(metavar="NAME", help="Name the file's algorithm, as here or in RL Zoo.", show_default=False),
    ],
) -> None:
    """Convert an entry of RL Zoo's hyperparameters to a config and print it."""
    from toolkit.migration.rl_zoo.convert import import_zoo as import_entry

    print_line(import_entry(file, env_id, algorithm), end="")
