"""`toolkit evaluate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from toolkit.cli.output import print_line
from toolkit.cli.shared import Model, RunPath, Seed, Trust, open_run, preload_after_check


def evaluate(
    run: RunPath = None,
    episodes: Annotated[int, typer.Option(min=1, help="Play this many greedy episodes.")] = 100,
    seed: Seed = None,
    model: Model = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trust: Trust = False,
) -> None:
    """Play greedy episodes on fresh seeds and print their raw returns."""
    from dataclasses import asdict

    with preload_after_check():
        opened_run = open_run(run, trust)
        opened_run.find_model(model)
    from toolkit.cli.text import format_evaluation
    from toolkit.evaluation.evaluate import evaluate as evaluate_run

    evaluation = evaluate_run(opened_run, episodes, seed, model)
    print_line(json.dumps(asdict(evaluation)) if as_json else format_evaluation(opened_run, evaluation, model))
