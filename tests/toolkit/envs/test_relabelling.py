"""Rewards of hindsight experience replay beside wrappers that change rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from support import Toolkit

from toolkit.config.load import ResolvedConfig, load_config, resolve_config
from toolkit.envs.factory import make_vec_env
from toolkit.training.model import build_model
from toolkit.training.trainer import dry_run, train
from toolkit.utils.errors import ConfigError, TrainingError

ENVS = """\
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper

BOX = gym.spaces.Box(0, 10, (1,), np.float32)


class Line(gym.Env):
    '''Walk along a line of 0 to 10 to a goal: 0 there, -1 elsewhere.'''

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps, self.goal = 5, 0, int(self.np_random.integers(11))
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.x = min(10, max(0, self.x + (1 if action else -1)))
        return self.observe(), float(self.reward_of(self.x, self.goal)), False, self.steps >= 15, {}

    def observe(self):
        places = {"observation": self.x, "achieved_goal": self.x, "desired_goal": self.goal}
        return {name: np.array([place], np.float32) for name, place in places.items()}

    def reward_of(self, achieved_goal, desired_goal):
        return -(np.abs(achieved_goal - desired_goal) > 0.5).astype(np.float32)


class GoalLine(Line):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return self.reward_of(achieved_goal, desired_goal).reshape(-1)


class CostlyLine(GoalLine):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward - 0.5, *rest


class Hundredfold(gym.RewardWrapper):
    def reward(self, reward):
        return 100 * float(reward)


class HundredfoldGoals(Hundredfold):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return 100 * self.env.get_wrapper_attr("compute_reward")(achieved_goal, desired_goal, info)


class Bonus(gym.Wrapper):
    '''Changes the reward of the wrapper's thousandth step, or of every step.'''

    def __init__(self, env, every=1):
        super().__init__(env)
        self.every, self.n_steps = every, 0

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        self.n_steps += 1
        return observation, reward + (self.n_steps % self.every == 0), *rest


class Shift(gym.ObservationWrapper):
    def observation(self, observation):
        return observation


class Counting(gym.Wrapper):
    n_steps = 0

    def step(self, action):
        self.n_steps += 1
        return self.env.step(action)


class AskingLine(Counting):
    def step(self, action):
        assert self.env.goal >= 0  # of the environment itself
        return super().step(action)


class VecBonus(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards + 1, dones, infos


gym.register("toolkit_tests/Line-v0", Line)
gym.register("toolkit_tests/GoalLine-v0", GoalLine)
gym.register("toolkit_tests/CostlyLine-v0", CostlyLine)
gym.register("toolkit_tests/WrappedLine-v0", lambda: Hundredfold(GoalLine()))
"""
CONFIG = """\
timesteps: 2000
import_modules: [./goal_envs.py]
env:
  id: toolkit_tests/GoalLine-v0
  n_envs: 2
  {wrappers}
algorithm:
  name: double_dqn
  policy: MultiInputPolicy
  params:
    learning_starts: 100
    buffer_size: 2000
    replay_buffer_class: stable_baselines3:HerReplayBuffer
    replay_buffer_kwargs: {n_sampled_goal: 4, goal_selection_strategy: future}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module of the environments, which can be registered once."""
    path = tmp_path_factory.mktemp("goals")
    (path / "goal_envs.py").write_text(ENVS)
    return path


def make_config(directory: Path, wrappers: str, *overrides: str) -> ResolvedConfig:
    (directory / "goals.yaml").write_text(CONFIG.replace("{wrappers}", wrappers))
    return resolve_config(load_config(directory / "goals.yaml", overrides))


def sample_rewards(config: ResolvedConfig) -> set[float]:
    """Train 300 steps, and return the rewards in a large minibatch: a fifth of it is real."""
    env = make_vec_env(config, seed=0)
    model: Any = build_model(config, env, seed=0)
    assert isinstance(model, OffPolicyAlgorithm)
    model.set_logger(configure(None, []))
    model.learn(300)
    env.close()
    assert model.replay_buffer is not None
    return {*model.replay_buffer.sample(1000, model.get_vec_normalize_env()).rewards.flatten().tolist()}


@pytest.mark.parametrize(
    ("wrappers", "rewards"),
    [
        ("", {-1.0, 0.0}),
        ('wrappers: ["./goal_envs.py:HundredfoldGoals"]', {-100.0, 0.0}),
        ('wrappers: ["./goal_envs.py:HundredfoldGoals", "./goal_envs.py:Shift"]', {-100.0, 0.0}),
        ('wrappers: ["./goal_envs.py:Counting"]', {-1.0, 0.0}),
        ('base_wrappers: ["./goal_envs.py:AskingLine", "./goal_envs.py:HundredfoldGoals"]', {-100.0, 0.0}),
        ("vec_wrappers: [{name: vec_normalize, params: {norm_obs: false, clip_reward: 0.25}}]", {-0.25, 0.0}),
    ],
    ids=["none", "offers", "offers below another", "keeps", "is part of the environment", "vec_normalize"],
)
def test_minibatch_has_rewards_of_one_scale(directory: Path, wrappers: str, rewards: set[float]) -> None:
    config = make_config(directory, wrappers)
    dry_run(config)
    assert sample_rewards(config) == rewards


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ('wrappers: ["./goal_envs.py:Hundredfold"]', "6: env.wrappers.0: Hundredfold changes rewards"),
        ('base_wrappers: ["./goal_envs.py:Hundredfold"]', "6: env.base_wrappers.0: Hundredfold changes rewards"),
        ('wrappers: ["./goal_envs.py:HundredfoldGoals", "./goal_envs.py:Bonus"]', "6: env.wrappers.1: Bonus changes"),
        (
            'wrappers: ["./goal_envs.py:Hundredfold", "./goal_envs.py:HundredfoldGoals"]',
            "6: env.wrappers.1: HundredfoldGoals.compute_reward returns -100 for a step of reward -10000",
        ),
        ('vec_wrappers: ["./goal_envs.py:VecBonus"]', "6: env.vec_wrappers.0: VecBonus may change rewards"),
    ],
)
def test_check_refuses_wrapper_whose_rewards_replay_cannot_compute(
    directory: Path, env: str, message: str, toolkit: Toolkit
) -> None:
    make_config(directory, env)
    finished = toolkit("check", directory / "goals.yaml")
    assert (finished.status, finished.out) == (2, "")
    assert f"goals.yaml:{message}" in finished.err
    assert "algorithm.params.replay_buffer_class" in finished.err


@pytest.mark.parametrize(
    ("env_id", "message"),
    [("WrappedLine", "env.id: Hundredfold changes rewards"), ("Line", "env.id: .* has no compute_reward")],
)
def test_environment_whose_rewards_replay_cannot_compute_is_refused(
    directory: Path, env_id: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dry_run(make_config(directory, "", f"env.id=toolkit_tests/{env_id}-v0"))


def test_wrapper_need_not_mend_what_environment_itself_gives(directory: Path) -> None:
    wrappers = 'wrappers: ["./goal_envs.py:HundredfoldGoals"]'
    dry_run(make_config(directory, wrappers, "env.id=toolkit_tests/CostlyLine-v0"))


def test_training_refuses_changed_rewards_before_it_creates_a_directory(directory: Path, tmp_path: Path) -> None:
    config = make_config(directory, 'wrappers: [{name: "./goal_envs.py:Bonus", params: {every: 50}}]')
    with pytest.raises(ConfigError, match=r"env.wrappers.0: Bonus changes rewards"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rare_change_of_reward_ends_training(directory: Path, tmp_path: Path) -> None:
    config = make_config(directory, 'wrappers: [{name: "./goal_envs.py:Bonus", params: {every: 500}}]')
    dry_run(config)
    with pytest.raises(TrainingError, match=r"timestep 998: .*env.wrappers.0: Bonus changes rewards.*GoalLine"):
        train(config, tmp_path / "run")
