"""A plugin-based reinforcement-learning toolkit on Stable-Baselines3.

One YAML file describes a run. The shortest one::

    timesteps: 50_000
    env: {id: CartPole-v1}
    algorithm: dqn

Train it into a run directory, here for fewer timesteps, and evaluate the agent:

>>> import toolkit
>>> run = toolkit.train("config.yaml", out="run", timesteps=200)
>>> run.result["timesteps"]
200
>>> len(toolkit.evaluate(run, episodes=2).returns)
2
>>> toolkit.load("run").config.env.id
'CartPole-v1'

Importing this package imports neither torch nor Stable-Baselines3. Each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.config.load import load_config
    from toolkit.config.schema import RunConfig
    from toolkit.evaluation.evaluate import Evaluation, evaluate
    from toolkit.evaluation.learning_curves import plot
    from toolkit.evaluation.run import Run, load, train
    from toolkit.evaluation.video import record
    from toolkit.evaluation.viewer import watch
    from toolkit.experiments.api import experiment
    from toolkit.experiments.launcher import Ended, Job, Launcher
    from toolkit.reports.write import report
    from toolkit.training.callbacks import RunCallback, SuccessCriterion
    from toolkit.utils.errors import ToolkitError

_MODULES = {
    "Ended": "toolkit.experiments.launcher",
    "Evaluation": "toolkit.evaluation.evaluate",
    "Job": "toolkit.experiments.launcher",
    "Launcher": "toolkit.experiments.launcher",
    "Run": "toolkit.evaluation.run",
    "RunCallback": "toolkit.training.callbacks",
    "RunConfig": "toolkit.config.schema",
    "SuccessCriterion": "toolkit.training.callbacks",
    "ToolkitError": "toolkit.utils.errors",
    "evaluate": "toolkit.evaluation.evaluate",
    "experiment": "toolkit.experiments.api",
    "load": "toolkit.evaluation.run",
    "load_config": "toolkit.config.load",
    "plot": "toolkit.evaluation.learning_curves",
    "record": "toolkit.evaluation.video",
    "report": "toolkit.reports.write",
    "train": "toolkit.evaluation.run",
    "watch": "toolkit.evaluation.viewer",
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
    if name not in _MODULES:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
