"""The files of a run say how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import Toolkit

from toolkit import Run, load_config, train

OWN = """\
import threading

import gymnasium as gym


class Negated(gym.RewardWrapper):
    def reward(self, reward):
        return -reward


class Unpicklable:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, progress_remaining):
        return 1e-3
"""


ENDLESS = """\
import gymnasium as gym


class Endless(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        return self.observation_space.sample() * 0, 1.0, False, False, {}


gym.register("Endless-v0", Endless)
"""


@pytest.fixture(autouse=True)
def module_file() -> None:
    Path("own.py").write_text(OWN)


def read_result(directory: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(directory) / "result.json").read_text())
    return result


def load_weights(run: Run) -> NDArray[np.float64]:
    from toolkit.training.model import load_model

    return np.concatenate([value.detach().numpy().ravel() for value in load_model(run).policy.parameters()])


def test_model_that_cannot_be_saved_fails_run(config_file: Path, toolkit: Toolkit) -> None:
    text = config_file.read_text().replace("learning_rate: 1e-3", "learning_rate: {name: './own.py:Unpicklable'}")
    config_file.write_text(text)
    finished = toolkit("train", config_file, "--out", "run")
    assert finished.status == 1
    assert "pickle" in finished.err
    assert "Traceback" not in finished.err
    assert read_result("run")["status"] == "failed"
    assert not Path("run/model.zip").exists()


def test_window_before_min_timesteps_is_not_reported_as_solved(config_file: Path, toolkit: Toolkit) -> None:
    settings = "{threshold: 5, episodes: 2, min_timesteps: 100_000}"
    finished = toolkit("train", config_file, "--set", f"callbacks.0.params={settings}", "--out", "run")
    assert finished.out.startswith("not solved: mean return ")
    assert "(to reach: 5)" in finished.out


@pytest.mark.parametrize("algorithm", ["ars", "double_dqn", "a2c"])
def test_algorithm_learns_from_shaped_rewards_and_reports_raw_returns(algorithm: str) -> None:
    policy = "LinearPolicy" if algorithm == "ars" else "MlpPolicy"
    params = "{learning_starts: 20, compile: false}" if algorithm == "double_dqn" else "{}"
    Path("c.yaml").write_text(
        f"timesteps: 120\nenv: {{id: CartPole-v1, wrappers: ['./own.py:Negated']}}\n"
        f"algorithm: {{name: {algorithm}, policy: {policy}, params: {params}}}\n"
    )
    shaped = train(load_config("c.yaml"), Path("shaped"))
    plain = train(load_config("c.yaml", ["env.wrappers=[]"]), Path("plain"))
    assert not np.array_equal(load_weights(shaped), load_weights(plain))
    rows = Path("shaped/monitor.csv").read_text().splitlines()[2:]
    assert rows
    assert all(float(row.split(",")[0]) > 0 for row in rows), "what is reported stays raw"


def test_edited_module_file_is_loaded_again(config_file: Path) -> None:
    setting = ["env.wrappers.0=./own.py:Negated"]
    before = load_config(config_file, setting).components.wrappers[0].cls
    Path("own.py").write_text(OWN.replace("return -reward", "return -7 * reward"))
    after = load_config(config_file, setting).components.wrappers[0].cls
    assert (before.reward(None, 1.0), after.reward(None, 1.0)) == (-1.0, -7.0)


def test_config_that_yaml_cannot_hold_is_refused(config_file: Path) -> None:
    from toolkit import ToolkitError

    config = load_config(config_file)
    params = {**config.algorithm.params, "learning_rate": lambda progress: 1e-3}
    algorithm = config.algorithm.model_copy(update={"params": params})
    with pytest.raises(ToolkitError, match="cannot be written as YAML"):
        train(config.model_copy(update={"algorithm": algorithm}))
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_evaluation_of_endless_environment_raises_run_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit import evaluate
    from toolkit.envs import episode_limit
    from toolkit.utils.errors import RunError

    Path("endless.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(episode_limit, "EPISODE_LIMIT", 500)
    algorithm = "{name: ppo, params: {n_steps: 50, batch_size: 50}}"
    Path("c.yaml").write_text(f"timesteps: 100\nenv: {{id: 'endless:Endless-v0'}}\nalgorithm: {algorithm}\n")
    run = train(load_config("c.yaml"))
    with pytest.raises(RunError, match=r"did not end within 500 steps\nset env\.max_episode_steps"):
        evaluate(run, 1)
