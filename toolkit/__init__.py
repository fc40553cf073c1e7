"""A plugin-based reinforcement-learning toolkit on Stable-Baselines3.

Importing this imports neither torch nor Stable-Baselines3; its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.callbacks import RunCallback, SuccessCriterion
    from toolkit.components import load_config
    from toolkit.config import RunConfig
    from toolkit.errors import ToolkitError
    from toolkit.evaluation import Evaluation, evaluate
    from toolkit.recording import record
    from toolkit.run import Run
    from toolkit.training import train

_HOMES = {
    "Evaluation": "toolkit.evaluation",
    "Run": "toolkit.run",
    "RunCallback": "toolkit.callbacks",
    "RunConfig": "toolkit.config",
    "SuccessCriterion": "toolkit.callbacks",
    "ToolkitError": "toolkit.errors",
    "evaluate": "toolkit.evaluation",
    "load_config": "toolkit.components",
    "record": "toolkit.recording",
    "train": "toolkit.training",
}

__all__ = [
    "Evaluation",
    "Run",
    "RunCallback",
    "RunConfig",
    "SuccessCriterion",
    "ToolkitError",
    "evaluate",
    "load_config",
    "record",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
