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
            ["replay_buffer_class: HerReplayBuffer"],
            "10: algorithm.params.replay_buffer_class: replay_buffer 'HerReplayBuffer' does not exist; "
            "did you mean 'her'?",
        ),
        (
            ["replay_buffer_class: HER"],
            "10: algorithm.params.replay_buffer_class: replay_buffer 'HER' does not exist; did you mean 'her'?",
        ),
        (
            ["replay_buffer_class: her", "replay_buffer_kwargs: {goal_selection_strategy: futur}"],
            "11: algorithm.params.replay_buffer_kwargs.goal_selection_strategy: should be 'future' or 'final' or "
            "'episode', not 'futur'",
        ),
        (
            ["replay_buffer_class: {name: her, params: {n_sampled_goal: -1}}"],
            "10: algorithm.params.replay_buffer_class.params.n_sampled_goal: should be at least 0, not -1",
        ),
        (
            ["replay_buffer_kwargs: {buffer_size: 3}"],
            "10: algorithm.params.replay_buffer_kwargs.buffer_size: cannot be set here: it comes from "
            "algorithm.params.buffer_size",
        ),
        (
            ["replay_buffer_kwargs: {n_sampled_goal: 3}"],
            "10: algorithm.params.replay_buffer_kwargs.n_sampled_goal: unknown parameter of DictReplayBuffer, which "
            "is used without replay_buffer_class; name the replay_buffer_class that takes it",
        ),
        (
            ["replay_buffer_kwargs: {handle_timeouts_termination: false}"],
            "10: algorithm.params.replay_buffer_kwargs.handle_timeouts_termination: unknown parameter of "
            "DictReplayBuffer, which is used without replay_buffer_class; did you mean 'handle_timeout_termination'?",
        ),
        (
            ["replay_buffer_class: stable_baselines3.common.buffers:ReplayBuffer"],
            "10: algorithm.params.replay_buffer_class: ReplayBuffer cannot hold the Dict observations of "
            f"'{GOAL_LINE}'; remove it, or choose her for environments with goals",
        ),
        (
            ["n_steps: 3"],
            f"10: algorithm.params.n_steps: should be 1 for the Dict observations of '{GOAL_LINE}'; remove it",
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


def test_buffer_for_dict_observations_is_refused_for_others(working_directory: Path, toolkit: Toolkit) -> None:
    config = write_config("replay_buffer_class: stable_baselines3.common.buffers:DictReplayBuffer")
    checked = toolkit("check", config, "--set", "env.id=Taxi-v4", "--set", "algorithm.policy=MlpPolicy")
    message = (
        "algorithm.params.replay_buffer_class: DictReplayBuffer needs Dict observations; 'Taxi-v4' gives Discrete"
    )
    assert message in checked.err


def test_prioritized_buffer_is_refused_for_stock_algorithms(working_directory: Path, toolkit: Toolkit) -> None:
    params = ["replay_buffer_class: prioritized", "replay_buffer_kwargs: {alpha: 0.5}", "n_steps: 3"]
    config = write_config(*params)
    assert toolkit("check", config).status == 0
    checked = toolkit("check", config, "--set", "algorithm.name=dqn")
    message = "algorithm.params.replay_buffer_class: 'dqn' takes neither the weights of PrioritizedReplayBuffer"
    assert checked.status == 2
    assert message in checked.err
    checked = toolkit("check", write_config(*params, "optimize_memory_usage: true"))
    assert checked.status == 2
    assert "does not support optimize_memory_usage: leave it out" in checked.err
