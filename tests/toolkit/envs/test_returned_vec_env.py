"""A function by path may return an SB3 `VecEnv`, which is then the run's."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecMonitor
from support import Toolkit

from toolkit.config.environments import find_env
from toolkit.config.load import load_config
from toolkit.envs.factory import make_vec_env
from toolkit.envs.trial import try_environment
from toolkit.utils.errors import ConfigError

GAMES = """\
import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv

class Seedless(DummyVecEnv):
    def seed(self, seed=None):
        raise AttributeError("seed")

def make_games(n=3, cls=DummyVecEnv):
    made.append(cls([lambda: gym.make("CartPole-v1", max_episode_steps=12) for _ in range(n)]))
    return made[-1]

def make_seedless():
    return make_games(cls=Seedless)

class Masked(gym.Wrapper):
    def reset(self, **kwargs):
        self.side = 0
        return super().reset(**kwargs)

    def step(self, action):
        assert action == self.side, "masked"
        self.side = 1 - self.side
        return super().step(action)

    def action_masks(self):
        return [self.side == 0, self.side == 1]

def make_masked(cls=DummyVecEnv):
    return cls([lambda: Masked(gym.make("CartPole-v1"))] * 2)

def make_single():
    made.append(gym.make("CartPole-v1"))
    return made[-1]

made = []
"""
CONFIG = """\
timesteps: 90
env: {{id: ./games.py:{function}}}
algorithm: {{name: a2c, policy_params: {{net_arch: [4]}}}}
snapshots: {{every_timesteps: 30}}
"""


@pytest.fixture(autouse=True)
def config(working_directory: Path) -> Path:
    """A config whose environment is a vec env, and the file with the function."""
    Path("games.py").write_text(GAMES)
    return write_config("make_games")


def write_config(function: str) -> Path:
    path = Path("games.yaml")
    path.write_text(CONFIG.format(function=function))
    return path


def read_rows(run: str) -> list[dict[str, str]]:
    lines = Path(run, "monitor.csv").read_text().splitlines()[1:]
    return [*csv.DictReader(lines)]


def test_episodes_are_those_that_sb3_monitors(config: Path) -> None:
    env = make_vec_env(load_config(config), seed=5)
    stock = VecMonitor(find_env(f"{Path('games.py').resolve()}:make_games").creator())  # type: ignore[misc]
    stock.seed(5)
    assert env.num_envs == 3
    assert (env.reset() == stock.reset()).all()
    expected = []
    for step in range(40):
        actions = np.array([step % 2, 0, 1])
        mine, theirs = (venv.step(actions) for venv in (env, stock))
        assert all((mine[index] == theirs[index]).all() for index in range(3))
        for info, other in zip(mine[3], theirs[3], strict=True):
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert ("episode" in info) == ("episode" in other)
            if "episode" in other:
                assert (info["terminal_observation"] == other["terminal_observation"]).all()
                expected.append((info["episode"]["r"], info["episode"]["l"]))
                assert expected[-1] == (other["episode"]["r"], other["episode"]["l"])
    assert len(expected) > 3


def test_vec_env_trains_evaluates_and_resumes_with_new_episodes(
    config: Path, toolkit: Toolkit, caplog: pytest.LogCaptureFixture
) -> None:
    assert toolkit("train", config, "--out", "run", "--quiet").status == 0
    assert toolkit("evaluate", "run", "--episodes", "4").status == 0
    rows = read_rows("run")
    Path("run/result.json").unlink()
    assert caplog.messages == []
    assert toolkit("resume", "run", "--quiet").status == 0
    message = "environment {} cannot repeat its episode (it belongs to a VecEnv): a new episode starts"
    assert caplog.messages == [message.format(index) for index in range(3)]
    assert rows
    assert read_rows("run")[0]["r"] == rows[0]["r"]
    assert all(float(row["r"]) == float(row["l"]) <= 12 for row in read_rows("run"))


def test_new_episodes_after_resume_start_where_vec_env_stands(config: Path) -> None:
    resolved = load_config(config)
    interrupted, resumed = (make_vec_env(resolved, seed=seed) for seed in (0, 1))
    interrupted.reset()
    interrupted.step(np.array([0, 1, 0]))
    states = interrupted.env_method("replay_state")
    resumed.reset()
    for index, state in enumerate(states):
        resumed.env_method("replay", state, indices=[index])
    for _ in range(2):
        observations, _, dones, _ = resumed.step(np.array([1, 0, 1]))
        games = resolved.components.env.cls.function.__globals__["made"][-1].envs
        assert np.allclose(observations, [game.unwrapped.state for game in games])  # type: ignore[arg-type]
    assert not dones.any()


def test_trial_steps_whole_vec_env(config: Path) -> None:
    assert try_environment(load_config(config)) == []


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("env.max_episode_steps=9", "env.max_episode_steps"),
        ("env.reset_options={low: 0}", "env.reset_options"),
        ("env.vec_env=subproc", "env.vec_env"),
        ("env.step_timeout=3", "env.step_timeout"),
        ("env.wrappers=[clip_reward]", "env.wrappers"),
        ("env.base_wrappers=['gymnasium.wrappers:FlattenObservation']", "env.base_wrappers"),
        ("env.n_envs=2", "env.n_envs"),
        ("callbacks=[record_video]", "callbacks.0"),
    ],
)
def test_key_that_needs_single_environments_is_refused(override: str, path: str, config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_vec_env(load_config(config, [override]), seed=0)
    assert str(caught.value).startswith(f"--set {override}: {path}: cannot ")


def test_video_of_vec_env_is_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"env.id: cannot be rendered: 'make_games' returns a VecEnv"):
        make_vec_env(load_config(config), seed=0, render_mode="rgb_array")


def test_vec_env_without_seed_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert make_vec_env(load_config(write_config("make_seedless")), seed=0).reset().shape == (3, 4)
    assert caplog.messages == ["Seedless takes no seed: its episodes do not follow from the run's"]


def test_function_is_called_once_for_each_environment() -> None:
    config = load_config(write_config("make_single"), ["env.n_envs=2"])
    assert make_vec_env(config, seed=0).num_envs == 2
    assert len(config.components.env.cls.function.__globals__["made"]) == 2


def test_masks_of_vec_env_reach_maskable_ppo(toolkit: Toolkit) -> None:
    algorithm = "{name: maskable_ppo, params: {n_steps: 16, batch_size: 16, n_epochs: 1}}"
    path = write_config("make_masked")
    path.write_text(path.read_text().replace("{name: a2c, policy_params: {net_arch: [4]}}", algorithm))
    assert toolkit("check", path).status == 0
    assert toolkit("train", path, "--out", "run", "--quiet").status == 0
    assert toolkit("evaluate", "run", "--episodes", "2").status == 0
