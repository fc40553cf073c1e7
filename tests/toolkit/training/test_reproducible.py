"""The same config and seed give the same run, also if the process does other work meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import find_differences, make_config
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from toolkit import RunConfig, evaluate
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.training.run_directory import RunDirectory
from toolkit.training.trainer import train

SMALL: dict[str, Any] = {"timesteps": 400, "env": {"max_episode_steps": 60}}
RUNS = {
    "double_dqn": make_config("double_dqn", **SMALL),
    "ppo": make_config("ppo", {"n_envs": 2, **SMALL["env"]}, timesteps=400),
}
VIDEO = {"name": "record_video", "params": {"every_timesteps": 150, "at_end": True, "max_steps": 5}}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained config, without other work in the process."""
    return train(RUNS[request.param], tmp_path_factory.mktemp("reproducible") / "run")


def test_second_training_writes_the_same_files(run: RunDirectory, tmp_path: Path) -> None:
    again = train(run.config, tmp_path / "again")
    assert find_differences(run.directory, again.directory) == []


def test_other_seed_changes_results(run: RunDirectory, tmp_path: Path) -> None:
    other = train(run.config.model_copy(update={"seed": 4}), tmp_path / "other")
    assert {"monitor.csv", "progress.csv", "result.json"} < {*find_differences(run.directory, other.directory)}


def add_callbacks(run: RunDirectory, *more: dict[str, Any]) -> RunConfig:
    callbacks = [*json.loads(run.config.model_dump_json())["callbacks"], *more]
    return RunConfig.model_validate(json.loads(run.config.model_dump_json()) | {"callbacks": callbacks})


def test_recording_videos_does_not_change_training(run: RunDirectory, tmp_path: Path) -> None:
    filmed = train(add_callbacks(run, VIDEO), tmp_path / "filmed")
    assert len([*filmed.videos.iterdir()]) >= 3
    assert find_differences(run.directory, filmed.directory) == []


class EvaluateAnotherRun(BaseCallback):
    """Does what `toolkit evaluate` of another run does, in the process that trains."""

    def __init__(self, other: RunDirectory) -> None:
        super().__init__()
        self.other = other
        self.n_evaluations = 0

    def _on_step(self) -> bool:
        if self.n_calls % 100 == 0:
            evaluate(self.other, episodes=2)
            self.n_evaluations += 1
        return True


def test_evaluating_another_run_does_not_change_training(run: RunDirectory, tmp_path: Path) -> None:
    callback = EvaluateAnotherRun(run)
    other = train(run.config, tmp_path / "run", [callback])
    assert callback.n_evaluations >= 2
    assert find_differences(run.directory, other.directory) == []


def test_evaluating_the_model_does_not_change_training(run: RunDirectory, tmp_path: Path) -> None:
    config = run.resolved_config
    env = make_vec_env(config, seed=derived_seed(config.seed, "evaluation"), n_envs=1)
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=100, verbose=0)
    other = train(run.config, tmp_path / "run", [callback])
    env.close()
    assert callback.last_mean_reward > 0
    # it logs columns of its own
    assert find_differences(run.directory, other.directory) == ["progress.csv"]
