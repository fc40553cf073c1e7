"""Experiments in Python: ``toolkit.experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.experiments.config import load_plan
from toolkit.experiments.display import display as experiment_display
from toolkit.experiments.runner import Experiment, run_experiment
from toolkit.utils.display import in_notebook


def experiment(
    file: str | Path,
    out: str | Path | None = None,
    yes: bool = False,
    progress_bar: bool | None = None,
    **overrides: Any,
) -> Experiment:
    """Train and evaluate every variant of an experiment file with every seed, or what is left of them.

    ``experiment("wrappers.yaml", seeds=3, launcher__params__workers=2)`` lays values over the file by dotted path,
    with ``__`` for the dot. A script that calls it needs ``if __name__ == "__main__":`` around what it does.

    :param out: the experiment's directory; by default ``experiments/<name>``, in which it goes on
    :param yes: whether there may be more than a thousand runs
    :param progress_bar: whether to show how it goes; by default in a notebook
    :return: its ``directory``, why each run in ``failed`` has failed, and the signal in ``stopped_by`` that ended it
    :raises ConfigError: if the file or a variant's config does not fit
    :raises RunError: if the directory is of something else, or another process works in it
    :raises ToolkitError: if there are more runs, or there is nowhere to run them
    """
    plan = load_plan(Path(file), overrides, yes)
    shown = in_notebook() if progress_bar is None else progress_bar
    return run_experiment(plan, None if out is None else Path(out), experiment_display() if shown else None)
