"""A plugin-based reinforcement-learning toolkit on Stable-Baselines3.

Importing this imports neither torch nor Stable-Baselines3; its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api import Run, experiment, load, train
    from toolkit.callbacks import RunCallback, SuccessCriterion
    from toolkit.components import load_config
    from toolkit.config import RunConfig
    from toolkit.errors import ToolkitError
    from toolkit.evaluation import Evaluation, evaluate
    from toolkit.launching import Ended, Job, Launcher
    from toolkit.plotting import plot
    from toolkit.recording import record
    from toolkit.reports.writing import report
    from toolkit.watching import watch

_HOMES = {
    "Ended": "toolkit.launching",
    "Evaluation": "toolkit.evaluation",
    "Job": "toolkit.launching",
    "Launcher": "toolkit.launching",
    "Run": "toolkit.api",
    "RunCallback": "toolkit.callbacks",
    "RunConfig": "toolkit.config",
    "SuccessCriterion": "toolkit.callbacks",
    "ToolkitError": "toolkit.errors",
    "evaluate": "toolkit.evaluation",
    "experiment": "toolkit.api",
    "load": "toolkit.api",
    "load_config": "toolkit.components",
    "plot": "toolkit.plotting",
    "record": "toolkit.recording",
    "report": "toolkit.reports.writing",
    "train": "toolkit.api",
    "watch": "toolkit.watching",
}

__all__ = [
    "Ended",
    "Evaluation",
    "Job",
    "Launcher",
    "Run",
    "RunCallback",
    "RunConfig",
    "SuccessCriterion",
    "ToolkitError",
    "evaluate",
    "experiment",
    "load",
    "load_config",
    "plot",
    "record",
    "report",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
