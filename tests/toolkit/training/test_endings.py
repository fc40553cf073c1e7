"""However a run ends, what it leaves behind says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import Toolkit

from toolkit import Run, load_config, train
from toolkit.algorithms import DoubleDQN

OWN = """\
import sys
import threading

import gymnasium as gym


class Negated(gym.RewardWrapper):
    def reward(self, reward):
        return -reward


class Exits(gym.Wrapper):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 50:
            sys.exit(0)
        return super().step(action)


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
def own_file() -> None:
    Path("own.py").write_text(OWN)


def result_of(directory: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(directory) / "result.json").read_text())
    return result


def weights_of(run: Run) -> NDArray[np.float64]:
    from toolkit.training.model import load_model

    return np.concatenate([value.detach().numpy().ravel() for value in load_model(run).policy.parameters()])


def test_an_environment_that_exits_python_fails_the_run(config_file: Path, toolkit: Toolkit) -> None:
    done = toolkit("train", config_file, "--set", "env.wrappers.0=./own.py:Exits", "--out", "run")
    assert done.status == 1
    assert "training failed at timestep" in done.err
    assert "SystemExit" in Path("run/traceback.txt").read_text()
    assert result_of("run")["status"] == "failed"


def test_a_model_that_cannot_be_saved_fails_the_run(config_file: Path, toolkit: Toolkit) -> None:
    text = config_file.read_text().replace("learning_rate: 1e-3", "learning_rate: {name: './own.py:Unpicklable'}")
    config_file.write_text(text)
    done = toolkit("train", config_file, "--out", "run")
    assert done.status == 1
    assert "pickle" in done.err
    assert "Traceback" not in done.err
    assert result_of("run")["status"] == "failed"
    assert not Path("run/model.zip").exists()


def test_a_window_that_is_good_too_early_is_not_called_solved(config_file: Path, toolkit: Toolkit) -> None:
    settings = "{threshold: 5, episodes: 2, min_timesteps: 100_000}"
    done = toolkit("train", config_file, "--set", f"callbacks.0.params={settings}", "--out", "run")
    assert done.out.startswith("not solved: mean return ")
    assert "(to reach: 5)" in done.out


@pytest.mark.parametrize("algorithm", ["ars", "double_dqn", "ppo"])
def test_every_algorithm_learns_from_what_the_wrappers_make_of_rewards(algorithm: str) -> None:
    policy = "LinearPolicy" if algorithm == "ars" else "MlpPolicy"
    Path("c.yaml").write_text(
        f"timesteps: 300\nenv: {{id: CartPole-v1, wrappers: ['./own.py:Negated']}}\n"
        f"algorithm: {{name: {algorithm}, policy: {policy}, params: {{}}}}\n"
    )
    shaped = train(load_config("c.yaml"), Path("shaped"))
    plain = train(load_config("c.yaml", ["env.wrappers=[]"]), Path("plain"))
    assert not np.array_equal(weights_of(shaped), weights_of(plain))
    rows = Path("shaped/monitor.csv").read_text().splitlines()[2:]
    assert rows
    assert all(float(row.split(",")[0]) > 0 for row in rows), "what is reported stays raw"


def test_a_file_that_was_edited_is_loaded_anew(config_file: Path) -> None:
    setting = ["env.wrappers.0=./own.py:Negated"]
    before = load_config(config_file, setting).components.wrappers[0].cls
    Path("own.py").write_text(OWN.replace("return -reward", "return -7 * reward"))
    after = load_config(config_file, setting).components.wrappers[0].cls
    assert (before.reward(None, 1.0), after.reward(None, 1.0)) == (-1.0, -7.0)


def test_a_config_that_no_yaml_can_hold_is_refused_and_leaves_nothing(config_file: Path) -> None:
    from toolkit import ToolkitError

    config = load_config(config_file)
    params = {**config.algorithm.params, "learning_rate": lambda progress: 1e-3}
    algorithm = config.algorithm.model_copy(update={"params": params})
    with pytest.raises(ToolkitError, match="cannot be written as YAML"):
        train(config.model_copy(update={"algorithm": algorithm}))
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_the_model_of_a_run_opens_as_any_sb3_model(config_file: Path) -> None:
    run = train(load_config(config_file))
    model = DoubleDQN.load(run.model_path)
    assert model.double


def test_evaluating_an_environment_that_never_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit import evaluate
    from toolkit.evaluation import rollout
    from toolkit.utils.errors import RunError

    Path("endless.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(rollout, "EPISODE_LIMIT", 500)
    algorithm = "{name: ppo, params: {n_steps: 50, batch_size: 50}}"
    Path("c.yaml").write_text(f"timesteps: 100\nenv: {{id: 'endless:Endless-v0'}}\nalgorithm: {algorithm}\n")
    run = train(load_config("c.yaml"))
    with pytest.raises(RunError, match=r"did not end within 500 steps\nset env\.max_episode_steps"):
        evaluate(run, 1)
