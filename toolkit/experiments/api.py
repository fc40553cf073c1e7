"""Experiments in Python: ``toolkit.experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.experiments.config import load_plan
from toolkit.experiments.display import create_display
from toolkit.experiments.runner import Experiment, run_experiment
from toolkit.utils.display import is_notebook
from toolkit.utils.signals import deliver_again


def experiment(
    file: str | Path,
    out: str | Path | None = None,
    yes: bool = False,
    progress_bar: bool | None = None,
    **overrides: Any,
) -> Experiment:
    """Train and evaluate every variant of an experiment file with every seed. Skip the runs that are done.

    Keyword arguments override values of the file by dotted path, with ``__`` for the dot:
    ``experiment("wrappers.yaml", seeds=3, launcher__params__workers=2)``. A script that calls this function needs
    ``if __name__ == "__main__":``.

    Ctrl-C and SIGTERM stop the runs where they can be resumed. A notebook then gets the experiment. Other programs get
    the signal, as ``KeyboardInterrupt`` or what else they have set for it.

    :param out: directory of the experiment, by default ``experiments/<name>``; an existing one is continued
    :param yes: allow more than 1,000 runs
    :param progress_bar: show the progress; by default only in a notebook
    :return: the experiment with its ``directory``, its ``failed`` runs and the signal that ended it (``stopped_by``)
    :raises ConfigError: if the file or the config of a variant is invalid
    :raises RunError: if the directory holds something else, or another process uses it
    :raises ToolkitError: if the file describes too many runs, or the launcher has nowhere to run them
    """
    plan = load_plan(Path(file), overrides, yes)
    has_display = is_notebook() if progress_bar is None else progress_bar
    completed = run_experiment(plan, None if out is None else Path(out), create_display() if has_display else None)
    deliver_again(completed.stopped_by)
    return completed
