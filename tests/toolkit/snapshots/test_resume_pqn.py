"""A run of PQN that stops and resumes ends as a run without a break does."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from small_runs import StopAt, find_differences, make_config, train_with_interruptions

from toolkit import Run, RunConfig
from toolkit.training.trainer import resume, train

BATCH: dict[str, Any] = {"n_envs": 4, "vec_env": "vector", "max_episode_steps": 20}
VEC_WRAPPERS: dict[str, Any] = {"n_envs": 2, "vec_wrappers": ["vec_normalize"]}


class KillAt(StopAt):
    """Kills its own process at a timestep, as the kernel does when memory runs out."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.timestep:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


@pytest.fixture(params=[BATCH, VEC_WRAPPERS], ids=["batch", "vec_wrappers"])
def env(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def test_resumed_and_killed_runs_match_uninterrupted_run(env: dict[str, Any], tmp_path: Path) -> None:
    params = {"n_steps": 32, "batch_size": 32}
    algorithm = {"name": "pqn", "params": params, "policy_params": {"net_arch": [16, 16]}}
    config = RunConfig.model_validate(make_config("a2c", env).model_dump() | {"algorithm": algorithm})
    train(config, tmp_path / "whole", [StopAt()])
    train_with_interruptions(config, tmp_path / "resumed")
    assert find_differences(tmp_path / "whole", tmp_path / "resumed") == []
    arguments = (config, tmp_path / "killed", [KillAt(430)])
    process = multiprocessing.get_context("forkserver").Process(target=train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resume(Run.open(tmp_path / "killed"), [KillAt()])
    assert find_differences(tmp_path / "whole", tmp_path / "killed") == []
