"""`monitor.csv`: exact returns, the agent's steps, the run's timesteps, and columns of a Monitor of the config."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import pytest
from small_runs import find_differences, make_config, train_with_interruptions

from toolkit import Run
from toolkit.evaluation.learning_curves import draw_learning_curves
from toolkit.experiments.monitor_tail import MonitorTail
from toolkit.reports.run_record import RunRecordReader
from toolkit.training.trainer import train
from toolkit.utils.data import compute_mean


class Walk(gym.Env[Any, Any]):
    """Episodes of 4 to 40 frames, as the seed says; each frame is worth 1e-8."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.frame, self.end = 0, 4 * int(self.np_random.integers(1, 11))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        self.frame += 1
        info = {"place": f'a "room",\nno {self.end}', "x": np.float32(self.end)}
        return np.zeros(1, np.float32), 1e-8, self.frame == self.end, False, info


class Skip(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats each action four times."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        total, result = 0.0, self.env.step(action)
        for _ in range(3):
            total += float(result[1])
            result = self.env.step(action)
        return result[0], total + float(result[1]), *result[2:]


gym.register("toolkit_tests/Walk-v0", Walk)
MONITOR = {"name": "stable_baselines3.common.monitor:Monitor", "params": {"info_keywords": ["place", "x"]}}
SKIP = f"{__name__}:Skip"


def read_rows(run: Run) -> list[dict[str, str]]:
    with (run.directory / "monitor.csv").open(newline="") as file:
        assert json.loads(file.readline().removeprefix("#")).keys() == {"t_start", "env_id"}
        return [*csv.DictReader(file)]


def make_walk(n_envs: int, threshold: float, *wrappers: Any) -> Any:
    """Return a config over 800 timesteps whose run succeeds if the mean of ten returns reaches the threshold."""
    success = {"name": "success", "params": {"threshold": threshold, "episodes": 10}}
    env = {"id": "toolkit_tests/Walk-v0", "n_envs": n_envs, "wrappers": [*wrappers]}
    return make_config("a2c", env, callbacks=[success])


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of eight environments that skip frames, which met a criterion of 2.2e-7 over ten episodes."""
    run = train(make_walk(8, 2.2e-7, SKIP), tmp_path_factory.mktemp("monitor") / "run")
    assert (run.result or {})["status"] == "success"
    return Run.open(run.directory)


def test_returns_are_not_rounded(solved: Run) -> None:
    rows = read_rows(solved)
    assert [float(row["r"]) for row in rows] == pytest.approx([4e-8 * int(row["l"]) for row in rows], rel=1e-12)
    result = solved.result or {}
    assert result["success"]["mean_return"] == compute_mean([float(row["r"]) for row in rows][-10:]) >= 2.2e-7


def test_lengths_are_steps_of_the_agent(solved: Run) -> None:
    assert {int(row["l"]) for row in read_rows(solved)} <= {*range(1, 11)}


def test_timestep_of_success_is_the_same_everywhere(solved: Run) -> None:
    result = solved.result or {}
    success = result["success"]
    assert result["timesteps"] == success["timestep"]
    timesteps = [int(row["timestep"]) for row in read_rows(solved)]
    assert timesteps == sorted(timesteps)
    assert timesteps[success["episode"] - 1] == success["timestep"]
    axes = draw_learning_curves([solved]).axes[0]
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [success["timestep"]]
    record = RunRecordReader().read(solved.directory)
    assert record.curve_timesteps[success["episode"] - 1] == record.success_timestep == success["timestep"]
    tail = MonitorTail(solved.directory)
    assert tail.poll(0)
    assert tail.timesteps == timesteps[-1]


def test_info_keywords_of_monitor_become_columns(tmp_path: Path) -> None:
    run = train(make_walk(3, 1.0, MONITOR), tmp_path / "run")
    rows = read_rows(run)
    assert [*rows[0]] == ["r", "l", "t", "timestep", "place", "x"]
    for row in rows:
        assert row["x"] == str(float(row["l"]))
        assert row["place"] == f'a "room",\\nno {row["l"]}'
    assert run.episodes == [(float(row["r"]), int(row["l"])) for row in rows]


def test_interrupted_run_holds_the_same_episodes(tmp_path: Path) -> None:
    config = make_walk(12, 1.0, SKIP, MONITOR)
    whole = train(config, tmp_path / "whole")
    train_with_interruptions(config, tmp_path / "broken")
    assert find_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert len(read_rows(whole)) > 60
    state = json.loads(next((tmp_path / "broken" / "snapshots").glob("*/state.json")).read_text())
    assert '"held": [[' in json.dumps(state), "a snapshot has episodes that do not count yet"
