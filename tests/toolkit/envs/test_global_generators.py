"""Environments that draw from the global generators of Python, NumPy and torch repeat from the seed."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_runs import StopAt, find_differences, make_config, train_with_interruptions

from toolkit import Run, RunConfig, evaluate
from toolkit.config.load import resolve_config
from toolkit.envs.factory import make_vec_env
from toolkit.training.trainer import train

GLOBAL_ENV = f"{__name__}:GlobalDraws-v0"


class GlobalDraws(gym.Env[Any, Any]):
    """Draws observations and rewards from every global generator, and one number when it is built."""

    observation_space = gym.spaces.Box(0, 1, (4,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.built_with = random.random()

    def observe(self) -> Any:
        return np.array([self.built_with, random.random(), np.random.rand(), torch.rand(1).item()])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), np.random.rand() + torch.rand(1).item(), False, self.steps == 10, {}


if "GlobalDraws-v0" not in gym.registry:
    gym.register("GlobalDraws-v0", GlobalDraws)


def make_global_config(vec_env: str, n_envs: int = 2) -> RunConfig:
    return make_config("a2c", {"id": GLOBAL_ENV, "vec_env": vec_env, "n_envs": n_envs}, timesteps=400)


def first_observations(config: RunConfig, seed: int) -> Any:
    env = make_vec_env(resolve_config(config), seed=seed)
    try:
        return env.reset()
    finally:
        env.close()


def test_subprocess_environments_draw_different_numbers_that_follow_from_seed() -> None:
    config = make_global_config("subproc", n_envs=4)
    first = first_observations(config, seed=1)
    assert all(len(set(column)) == 4 for column in first.T)
    assert len(set(first.flat)) == first.size  # and no number twice in different generators
    np.testing.assert_array_equal(first_observations(config, seed=1), first)
    assert not np.isin(first_observations(config, seed=2), first).any()


def train_twice(config: RunConfig, directory: Path) -> list[Run]:
    runs = []
    for name in ("first", "second"):
        random.seed(name)  # other code in this process
        runs.append(train(config, directory / name, [StopAt()]))
    assert find_differences(*(run.directory for run in runs)) == []
    return runs


def test_subprocess_run_repeats_and_resumes_exactly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = make_global_config("subproc")
    whole, _ = train_twice(config, tmp_path)
    train_with_interruptions(config, tmp_path / "resumed", (330,))
    assert find_differences(whole.directory, tmp_path / "resumed") == []
    assert caplog.messages == []


def test_run_in_one_process_repeats_and_names_the_generators(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = train_twice(make_global_config("dummy", n_envs=1), tmp_path)
    names = [re.search(r"environment GlobalDraws-v0 .* draws from (\w+)'s", message) for message in caplog.messages]
    assert [name and name[1] for name in names] == ["Python", "NumPy", "torch"] * 2
    caplog.clear()
    evaluations = []
    for run in runs:
        random.seed(str(run.directory))
        state = random.getstate()
        evaluations.append(evaluate(run, 12))
        assert random.getstate() == state
    assert evaluations[0] == evaluations[1]
    assert len(set(evaluations[0].returns)) == 12
    assert caplog.messages == []
