"""A plugin-based reinforcement-learning toolkit on Stable-Baselines3.

Importing this imports neither torch nor Stable-Baselines3; its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api import Run, load, train
    from toolkit.callbacks import RunCallback, SuccessCriterion
    from toolkit.components import load_config
    from toolkit.config import RunConfig
    from toolkit.errors import ToolkitError
    from toolkit.evaluation import Evaluation, evaluate
    from toolkit.plotting import plot
    from toolkit.recording import record
    from toolkit.watching import watch

_HOMES = {
    "Evaluation": "toolkit.evaluation",
    "Run": "toolkit.api",
    "RunCallback": "toolkit.callbacks",
    "RunConfig": "toolkit.config",
    "SuccessCriterion": "toolkit.callbacks",
    "ToolkitError": "toolkit.errors",
    "evaluate": "toolkit.evaluation",
    "load": "toolkit.api",
    "load_config": "toolkit.components",
    "plot": "toolkit.plotting",
    "record": "toolkit.recording",
    "train": "toolkit.api",
    "watch": "toolkit.watching",
}

__all__ = [
    "Evaluation",
    "Run",
    "RunCallback",
    "RunConfig",
    "SuccessCriterion",
    "ToolkitError",
    "evaluate",
    "load",
    "load_config",
    "plot",
    "record",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
