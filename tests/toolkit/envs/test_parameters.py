"""Parameters of environments and wrappers change between episodes, by schedules and by callbacks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from small_runs import find_differences, make_config, train_with_interruptions
from support import Toolkit
from weighted_env import N_STEPS

from toolkit import Run, RunConfig
from toolkit.training.trainer import train

LINEAR = {"name": "linear", "params": {"start": 1.0, "end": 3.0}}

REFUSED = """\
import gymnasium as gym
from gymnasium.vector import VectorWrapper
from stable_baselines3.common.vec_env import DummyVecEnv
from weighted_env import Weighted

def nan(progress_remaining):
    return float("nan")

def make_envs(weight: float = 1.0):
    return DummyVecEnv([lambda: Weighted(weight)])

class Fixed(gym.Wrapper):
    def __init__(self, env, limit: float):
        super().__init__(env)
        self.limit = max(limit, 1.0)

class VectorSingle(VectorWrapper):
    def __init__(self, env, scale: float):
        super().__init__(env)
        self.scale = scale

class Single(gym.Wrapper):
    vector_form = VectorSingle

    def __init__(self, env, scale: float):
        super().__init__(env)
        self.scale = scale
"""


def make_weighted_config(vec_env: str, weight: Any, timesteps: int = 200, **more: Any) -> RunConfig:
    name = "WeightedBatch" if vec_env == "vector" else "Weighted"
    env = {"id": f"weighted_env:{name}", "n_envs": 2, "vec_env": vec_env, "params": {"weight": weight}}
    env |= more.pop("env", {})
    return make_config(env=env, timesteps=timesteps, callbacks=[], **more)


def read_log(run: Run) -> list[dict[str, str]]:
    return [*csv.DictReader((run.directory / "progress.csv").read_text().splitlines())]


def read_episodes(run: Run) -> list[tuple[float, int]]:
    """Return the reward of each step and the timestep of the start, for each episode of a run."""
    rows = csv.DictReader(run.directory.joinpath("monitor.csv").read_text().splitlines()[1:])
    n_envs = run.config.env.n_envs
    return [(float(row["r"]) / int(row["l"]), int(row["timestep"]) - n_envs * int(row["l"])) for row in rows]


@pytest.mark.parametrize("vec_env", ["dummy", "vector"])
def test_episode_has_scheduled_value_of_its_start(vec_env: str, tmp_path: Path) -> None:
    run = train(make_weighted_config(vec_env, LINEAR), tmp_path / "run")
    episodes = [(weight, start) for weight, start in read_episodes(run) if start >= 2 * N_STEPS]
    assert len({weight for weight, _ in episodes}) >= 7
    for weight, start in episodes:
        assert weight == pytest.approx(1 + 2 * start / 200)
    assert Run.open(run.directory).evaluate(1).returns == (pytest.approx(3 * N_STEPS),)
    assert float(read_log(run)[-1]["parameters/env.params.weight"]) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(("vec_env", "stops"), [("dummy", (187, 331)), ("subproc", (187,)), ("vector", (187, 331))])
def test_resume_repeats_scheduled_values(
    vec_env: str, stops: tuple[float, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_success = {"name": "by_success", "params": {"start": 1, "end": 2, "low": 0, "high": 90, "episodes": 3}}
    wrappers = [{"name": "angle_penalty", "params": {"scale": LINEAR}}]
    if vec_env != "vector":
        wrappers.append({"name": "weighted_env:Lives", "params": {"bonus": LINEAR}})
    env = {"wrappers": wrappers}
    whole_vec_env = "vector" if vec_env == "vector" else "dummy"
    whole = train(make_weighted_config(whole_vec_env, by_success, 400, env=env), tmp_path / "whole")
    config = make_weighted_config(vec_env, by_success, 400, env=env)
    resumed = train_with_interruptions(config, tmp_path / "resumed", stops)
    assert not find_differences(whole.directory, resumed.directory)
    assert "repeats its episode only" not in caplog.text
    assert len({weight for weight, _ in read_episodes(whole)}) > 5


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ("params: {label: SCHEDULE}", "env.params.label: a schedule gives numbers, but this should be str"),
        ("params: {fixed: SCHEDULE}", "env.params.fixed: cannot change between episodes: Weighted has neither"),
        ("params: {weigth: SCHEDULE}", "env.params.weigth: unknown parameter; did you mean 'weight'?"),
        ("params: {weight: {name: linear, params: {begin: 0}}}", "weight.params.begin: unknown parameter"),
        ("params: {weight: {name: harmonic, params: {final: 0, scale: 1}}}", "is called with (episode, timestep)"),
        (
            "params: {weight: {name: ./nan.py:nan}}",
            "weight: the schedule fails at the start: ValueError: the schedule",
        ),
        ("wrappers: [{name: angle_penalty, params: {index: SCHEDULE}}]", "AnglePenalty lets these change: scale"),
        ("wrappers: [{name: './nan.py:Fixed', params: {limit: SCHEDULE}}]", "Fixed.limit is 1.0, not the 0.0 given"),
        ("id: weighted_env:WeightedBatch, vec_env: vector, params: {max_episode_steps: SCHEDULE}", "cannot be set"),
        (
            "vec_env: vector, id: CartPole-v1, wrappers: [{name: './nan.py:Single', params: {scale: SCHEDULE}}]",
            "batch",
        ),
        (
            "id: './nan.py:make_envs', params: {weight: SCHEDULE}",
            "weight: cannot change between episodes: 'make_envs' returns a VecEnv",
        ),
    ],
)
def test_check_refuses_schedule(toolkit: Toolkit, env: str, problem: str) -> None:
    Path("nan.py").write_text(REFUSED)
    env = env.replace("SCHEDULE", "{name: linear, params: {start: 0, end: 9}}")
    env_id = "" if "id: " in env else "id: weighted_env:Weighted, "
    Path("bad.yaml").write_text(f"timesteps: 100\nalgorithm: ppo\nenv: {{{env_id}{env}}}\n")
    checked = toolkit("check", "bad.yaml")
    assert checked.status == 2
    assert checked.err.startswith("bad.yaml:3: env.")
    assert problem in checked.err
