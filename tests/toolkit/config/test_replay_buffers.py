"""A config names an algorithm's replay buffer as it names any component."""

from __future__ import annotations

from pathlib import Path

import pytest
from goal_line import GOAL_LINE
from stable_baselines3 import HerReplayBuffer
from support import Toolkit

from toolkit.config.load import load_config

CONFIG = """\
timesteps: 60
import_modules: [goal_line]
env: {id: %s}
algorithm:
  name: double_dqn
  policy: MultiInputPolicy
  params:
    learning_starts: 20
    buffer_size: 100
    %s
"""


def write_config(*params: str) -> Path:
    Path("goals.yaml").write_text(CONFIG % (GOAL_LINE, "\n    ".join(params)))
    return Path("goals.yaml")


@pytest.mark.parametrize(
    "params",
    [
        ["replay_buffer_class: her", "replay_buffer_kwargs: {n_sampled_goal: 2}"],
        ["replay_buffer_class: {name: her, params: {n_sampled_goal: 2}}"],
        ["replay_buffer_class: {name: her}", "replay_buffer_kwargs: {n_sampled_goal: 2}"],
        ["replay_buffer_class: stable_baselines3:HerReplayBuffer", "replay_buffer_kwargs: {n_sampled_goal: 2}"],
    ],
)
def test_replay_buffer_is_found_with_its_parameters(params: list[str], working_directory: Path) -> None:
    arguments = load_config(write_config(*params)).components.algorithm.arguments
    assert arguments["replay_buffer_class"] is HerReplayBuffer
    assert arguments["replay_buffer_kwargs"] == {"n_sampled_goal": 2}


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            ["replay_buffer_class: hre"],
            "10: algorithm.params.replay_buffer_class: replay_buffer 'hre' does not exist; did you mean 'her'?",
        ),
        (
            ["replay_buffer_class: {name: hre}"],
            "10: algorithm.params.replay_buffer_class.name: replay_buffer 'hre' does not exist; did you mean 'her'?",
        ),
        (
            ["replay_buffer_class: {name: her, params: {n_sampled_goals: 2}}"],
            "10: algorithm.params.replay_buffer_class.params.n_sampled_goals: unknown parameter; "
            "did you mean 'n_sampled_goal'?",
        ),
        (
            ["replay_buffer_class: her", "replay_buffer_kwargs: {n_envs: 2}"],
            "11: algorithm.params.replay_buffer_kwargs.n_envs: cannot be set here: it comes from env.n_envs",
        ),
        (
            ["replay_buffer_class: {name: her, params: {n_sampled_goal: 2}}", "replay_buffer_kwargs: {}"],
            "11: algorithm.params.replay_buffer_kwargs: replay_buffer_class has params already; give one of the two",
        ),
        (
            ["replay_buffer_class: {name: her, parms: {n_sampled_goal: 2}}"],
            "10: algorithm.params.replay_buffer_class: should be a component: a name, and params as a mapping",
        ),
        (
            ["replay_buffer_class: stable_baselines3:DQN"],
            "10: algorithm.params.replay_buffer_class: 'stable_baselines3:DQN' is not a valid replay_buffer: it "
            "should be a subclass of stable_baselines3.common.buffers.ReplayBuffer, not the class DQN",
        ),
    ],
)
def test_check_names_mistake_in_replay_buffer(
    params: list[str], problem: str, working_directory: Path, toolkit: Toolkit
) -> None:
    checked = toolkit("check", write_config(*params))
    assert (checked.status, checked.out) == (2, "")
    assert checked.err.strip() == f"goals.yaml:{problem}"
