"""Small runs to train, to interrupt and to compare."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from support import PROJECT

from toolkit import Run, RunConfig
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError

# names the differences between two run directories; the script that kills training uses it too
find_differences = runpy.run_path(str(PROJECT / "benchmarks" / "comparison.py"))["list_differences"]

OFF_POLICY = {"learning_starts": 100, "buffer_size": 1_000, "batch_size": 16, "train_freq": 2}
CONTINUOUS = {"learning_starts": 100, "buffer_size": 1_000, "batch_size": 16, "train_freq": 8}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "double_dqn": OFF_POLICY | {"target_update_interval": 50},
    "dqn": OFF_POLICY | {"target_update_interval": 50},
    "qrdqn": OFF_POLICY | {"target_update_interval": 50},
    "ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "a2c": {},
    "sac": CONTINUOUS,
    "td3": CONTINUOUS,
    "tqc": CONTINUOUS,
    "recurrent_ppo": {"n_steps": 64, "batch_size": 32, "n_epochs": 1},
}
POLICY_PARAMS: dict[str, dict[str, Any]] = {
    "recurrent_ppo": {"lstm_hidden_size": 8},
    "qrdqn": {"net_arch": [16, 16], "n_quantiles": 8},
}
CONTINUOUS_ACTIONS = ("sac", "td3", "tqc")


class StopAt(BaseCallback):
    """Breaks training off at a timestep, also in the middle of a rollout."""

    def __init__(self, timestep: float = float("inf")) -> None:
        super().__init__()
        self.timestep = timestep

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.timestep:
            raise RuntimeError("broken off")
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def make_config(algorithm: str = "double_dqn", env: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    """Return a config that trains 800 steps in a second, and takes a snapshot every 150."""
    params = dict(ALGORITHMS[algorithm]) | more.pop("params", {})
    if algorithm == "td3":
        params["action_noise"] = {
            "name": "stable_baselines3.common.noise:OrnsteinUhlenbeckActionNoise",
            "params": {"mean": [0.0], "sigma": [0.3]},
        }
    parts = {
        "name": "stopped",
        "seed": 3,
        "timesteps": 800,
        "env": {"id": "Pendulum-v1" if algorithm in CONTINUOUS_ACTIONS else "CartPole-v1", **(env or {})},
        "algorithm": {
            "name": algorithm,
            "policy": "MlpLstmPolicy" if algorithm == "recurrent_ppo" else "MlpPolicy",
            "params": params,
            "policy_params": more.pop("policy_params", POLICY_PARAMS.get(algorithm, {"net_arch": [16, 16]})),
        },
        "callbacks": [{"name": "success", "params": {"threshold": 1e9, "episodes": 5}}],
        "snapshots": {"every_timesteps": 150},
    }
    return RunConfig.model_validate(parts | more)


def train_with_interruptions(config: RunConfig, out: Path, stops: tuple[float, ...] = (430, 610)) -> Run:
    """Train, break off at each of these timesteps, and resume."""
    with pytest.raises(TrainingError):
        train(config, out, [StopAt(stops[0])])
    run = Run.open(out)
    for stop in stops[1:]:
        with pytest.raises(TrainingError):
            resume(run, [StopAt(stop)])
    return resume(run, [StopAt()])
