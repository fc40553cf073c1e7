"""Import what the runs of an experiment need, and train one tiny run, for processes that are forked from this one.

Python and its libraries look up much at first use, and remember it: entry points, the metadata of packages,
signatures, specialized bytecode. Each run would pay for that again, as it has a process of its own. Forking is safe
afterwards: the tiny run computes in one thread, and PyTorch does not look for GPUs.
"""

import gc
import logging
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import toolkit.evaluation.preload  # noqa: F401 - imports without garbage collection

_CONFIG: dict[str, Any] = {
    "name": "preload",
    "timesteps": 64,
    "env": {"id": "CartPole-v1"},
    "algorithm": {
        "name": "double_dqn",
        "policy": "MlpPolicy",
        "params": {"buffer_size": 100, "learning_starts": 32, "batch_size": 16, "compile": False, "device": "cpu"},
    },
}


def train_once() -> None:
    """Train and evaluate a tiny run in a temporary directory."""
    import torch

    from toolkit.experiments.runner import run_job

    n_threads, has_gpu = torch.get_num_threads(), torch.cuda.is_available
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    torch.cuda.is_available = lambda: False  # nor a GPU that its parent has looked for
    try:
        with TemporaryDirectory() as directory, warnings.catch_warnings(action="ignore"):
            run_job(Path(directory) / "run", _CONFIG, evaluation_episodes=2)
    finally:
        torch.set_num_threads(n_threads)
        torch.cuda.is_available = has_gpu


_log = logging.getLogger("toolkit")
_log.disabled = True
try:
    with suppress(Exception):  # the runs report what is wrong; here only time is lost
        train_once()
finally:
    _log.disabled = False
    gc.collect()
    gc.freeze()
