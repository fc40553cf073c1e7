"""`toolkit describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import RunPath, Trust, open_run, preload_after_check


def describe(
    run: RunPath = None,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the networks to this .png or .svg file too.", show_default=False),
    ] = None,
    trust: Trust = False,
) -> None:
    """Describe a run's networks: layers, output shapes, parameters."""
    from toolkit.utils.files import picture_format

    if picture:
        picture_format(picture)  # refuse a bad suffix before the model is built
    with preload_after_check():
        opened_run = open_run(run, trust)
    from toolkit.cli.text import format_networks
    from toolkit.evaluation.networks import describe_networks
    from toolkit.training.model import untrained_model

    model = untrained_model(opened_run.resolved_config)
    if picture:
        from toolkit.evaluation.network_diagram import draw_networks

        draw_networks(model, picture)
    print_line(format_networks(opened_run, describe_networks(model)))
    if picture:
        print_line(picture)
