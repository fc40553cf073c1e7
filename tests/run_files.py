"""Run directories, written without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.config.load import load_config

HEAD = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n'


def write_run(
    directory: str,
    returns: Sequence[float] = (20.0, 30.0),
    *,
    solved: bool = False,
    status: str | None = "",
    greedy: float | None = None,
    **values: Any,
) -> Path:
    """Write a run directory as training and evaluation leave it.

    :param status: that of `result.json`; None if the run has no such file
    :param greedy: mean return in `evaluation.json`, if the run has that file
    """
    run = Path(directory)
    run.mkdir(parents=True)
    seed = run.name.removeprefix("seed-")
    config = load_config("small.yaml", {"seed": int(seed) if seed.isdecimal() else 0, **values})
    (run / "config.yaml").write_text(config.to_yaml())
    lengths = [max(1, int(abs(value))) for value in returns]
    rows = [
        f"{value},{length},{number}.5\r\n" for number, (value, length) in enumerate(zip(returns, lengths, strict=True))
    ]
    (run / "monitor.csv").write_text(HEAD + "".join(rows), newline="")
    success = {
        "threshold": 195.0,
        "episodes": 10,
        "solved": solved,
        "episode": len(returns) if solved else None,
        "timestep": sum(lengths) if solved else None,
        "seconds": 1.0 if solved else None,
        "mean_return": float(np.mean(returns)),
    }
    result = {
        "status": status or ("success" if solved else "finished"),
        "seed": config.seed,
        "timesteps": sum(lengths),
        "episodes": len(returns),
        "seconds": 1.5,
        "success": success,
    }
    if status is not None:
        (run / "result.json").write_text(json.dumps(result))
    if greedy is not None:
        evaluation = {"episodes": 100, "mean_return": greedy, "returns": [greedy] * 100}
        (run / "evaluation.json").write_text(json.dumps(evaluation))
    return run


def write_experiment() -> Path:
    """Write the experiment `rewards` with four runs each of `clip`, three of them solved, and `none`, all unsolved."""
    for seed in range(4):
        write_run(f"rewards/clip/seed-{seed}", [20, 100, 195 + seed], solved=seed > 0, greedy=190.0 + seed)
        write_run(f"rewards/none/seed-{seed}", [20, 21, 22, 23 + seed], greedy=20.0 + seed)
    return Path("rewards")
