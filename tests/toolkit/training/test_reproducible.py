"""The same config and seed give the same run, whatever else is done while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from trained import config, differences

from toolkit import Run, RunConfig, evaluate
from toolkit.envs.factory import derived_seed, make_vec_env
from toolkit.training.trainer import train

SMALL: dict[str, Any] = {"timesteps": 400, "env": {"max_episode_steps": 60}}
RUNS = {
    "double_dqn": config("double_dqn", **SMALL),
    "ppo": config("ppo", {"n_envs": 2, **SMALL["env"]}, timesteps=400),
}
VIDEO = {"name": "record_video", "params": {"every_timesteps": 150, "at_end": True, "max_steps": 5}}


@pytest.fixture(scope="module", params=RUNS)
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a config, and nothing else."""
    return train(RUNS[request.param], tmp_path_factory.mktemp("once") / "run")


def test_a_config_trained_twice_gives_the_same_files(once: Run, tmp_path: Path) -> None:
    again = train(once.config, tmp_path / "again")
    assert differences(once.directory, again.directory) == []


def test_another_seed_gives_another_run(once: Run, tmp_path: Path) -> None:
    other = train(once.config.model_copy(update={"seed": 4}), tmp_path / "other")
    assert {"monitor.csv", "progress.csv", "result.json"} < {*differences(once.directory, other.directory)}


def with_callbacks(once: Run, *more: dict[str, Any]) -> RunConfig:
    callbacks = [*json.loads(once.config.model_dump_json())["callbacks"], *more]
    return RunConfig.model_validate(json.loads(once.config.model_dump_json()) | {"callbacks": callbacks})


def test_videos_leave_training_as_it_is(once: Run, tmp_path: Path) -> None:
    filmed = train(with_callbacks(once, VIDEO), tmp_path / "filmed")
    assert len([*filmed.videos.iterdir()]) >= 3
    assert differences(once.directory, filmed.directory) == []


class EvaluatingAnotherRun(BaseCallback):
    """Does what `toolkit evaluate` of another run does, in the process that trains."""

    def __init__(self, other: Run) -> None:
        super().__init__()
        self.other = other
        self.evaluated = 0

    def _on_step(self) -> bool:
        if self.n_calls % 100 == 0:
            evaluate(self.other, episodes=2)
            self.evaluated += 1
        return True


def test_so_does_evaluating_another_run_meanwhile(once: Run, tmp_path: Path) -> None:
    evaluating = EvaluatingAnotherRun(once)
    run = train(once.config, tmp_path / "run", [evaluating])
    assert evaluating.evaluated >= 2
    assert differences(once.directory, run.directory) == []


def test_so_does_evaluating_the_model_itself(once: Run, tmp_path: Path) -> None:
    env = make_vec_env(once.resolved_config, seed=derived_seed(once.config.seed, "evaluation"), n_envs=1)
    evaluating = EvalCallback(env, n_eval_episodes=2, eval_freq=100, verbose=0)
    run = train(once.config, tmp_path / "run", [evaluating])
    env.close()
    assert evaluating.last_mean_reward > 0
    # what it has logged is in a column of its own
    assert differences(once.directory, run.directory) == ["progress.csv"]
