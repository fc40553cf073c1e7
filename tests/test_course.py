"""The course's configs train exactly as its programs do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from arithmetic import copy_layers, update_by_hand
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from support import PROJECT, Toolkit, files_in

from toolkit import RunConfig, load_config
from toolkit.algorithms import DoubleDQN
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import make_vec_env
from toolkit.training.model import build_model

KERAS_EPSILON = 1e-7


def load_course_config(name: str, *overrides: str) -> RunConfig:
    return load_config(PROJECT / "configs" / f"course_{name}.yaml", overrides)


def make_untrained_model(name: str) -> DoubleDQN:
    """Build the config's model with one minibatch in a full replay buffer, and no update yet."""
    config = load_course_config(name, "algorithm.params.buffer_size=32", "algorithm.params.learning_starts=10_000")
    model = build_model(config, make_vec_env(config, seed=0), seed=0)
    assert isinstance(model, DoubleDQN)
    model.learn(60)
    return model


def read_buffer(model: DoubleDQN) -> Any:
    """Return all transitions of the replay buffer as a minibatch, in which the order does not matter."""
    buffer: Any = model.replay_buffer
    fields = ("observations", "next_observations", "actions", "rewards", "dones")
    batch = {name: th.as_tensor(getattr(buffer, name).reshape(32, -1)) for name in fields}
    return SimpleNamespace(**batch)


@pytest.mark.parametrize(("name", "n_epochs"), [("ddqn", 5), ("dqn", 5), ("graded", 3), ("angle", 3)])
def test_update_equals_arithmetic_by_hand(name: str, n_epochs: int) -> None:
    model = make_untrained_model(name)
    assert [layer.shape for layer in copy_layers(model.q_net)] == [(16, 4), (16,), (16, 16), (16,), (2, 16), (2,)]
    assert model.n_epochs == n_epochs
    assert (model.gamma, model.learning_rate, model.batch_size, model.max_grad_norm) == (0.99, 1e-3, 32, float("inf"))
    assert load_course_config(name).algorithm.params["buffer_size"] == 10_000
    if name != "dqn":  # its target network is the online network
        for parameter in model.q_net_target.parameters():
            parameter.data *= 1.5
    batch = read_buffer(model)
    assert batch.dones.sum() > 0
    expected = update_by_hand(model, batch, KERAS_EPSILON)
    model.train(gradient_steps=1, batch_size=32)
    for layer, by_hand in zip(copy_layers(model.q_net), expected, strict=True):
        np.testing.assert_allclose(layer, by_hand, rtol=0, atol=2e-6)


def fall(_: NDArray[np.float32]) -> int:
    return 0


def balance(observation: NDArray[np.float32]) -> int:
    """Push the cart in the direction in which the pole leans and turns, and back to the middle."""
    position, velocity, angle, angular_velocity = observation
    return int(angle + 0.3 * angular_velocity + 0.01 * position + 0.03 * velocity > 0)


def play_episode(env: EpisodeRecorder, policy: Any) -> tuple[list[float], list[float]]:
    """Play an episode; return its rewards, and the pole's angle after each step except the last."""
    (observation,) = env.reset()
    rewards, angles, done = [], [], False
    while not done:
        (observation,), (reward,), (done,), _ = env.step(np.array([policy(observation)]))
        rewards.append(float(reward))
        angles.append(float(observation[2]))
    return rewards, angles[:-1]


@pytest.mark.parametrize("policy", [fall, balance])
@pytest.mark.parametrize("name", ["ddqn", "graded", "angle"])
def test_rewards_equal_those_of_the_program(name: str, policy: Any) -> None:
    env = make_vec_env(load_course_config(name), seed=0)
    rewards, angles = play_episode(env, policy)
    last = len(rewards) - 1
    assert last == 198 if policy is balance else last < 15, "the 200 steps count the first, random action"
    ends = {"ddqn": 1.0 if last >= 195 else -1.0, "graded": (last - 99) * 0.01, "angle": (last - 99) * 0.01}
    before = [1 - 2 * abs(angle) for angle in angles] if name == "angle" else [0.0] * last
    np.testing.assert_allclose(rewards, [*before, ends[name]], atol=1e-6)
    assert [episode.raw_return for episode in env.episodes] == [len(rewards)], "success counts steps"


def test_step_limit_counts_as_terminal_state() -> None:
    config = load_course_config("ddqn", "env.max_episode_steps=5", "algorithm.params.learning_starts=10_000")
    model = build_model(config, make_vec_env(config, seed=0), seed=0)
    model.learn(12)
    assert isinstance(model, DoubleDQN)
    assert model.replay_buffer is not None
    batch = model.replay_buffer._get_samples(np.arange(12))
    assert batch.dones[:, 0].tolist() == [0, 0, 0, 1] * 3


class TargetRecorder(BaseCallback):
    """Records whether the target network equals the online network before the last step's updates."""

    def _on_training_start(self) -> None:
        self.is_same: list[bool] = []
        self.online: list[NDArray[np.float64]] = []

    def _on_step(self) -> bool:
        model: Any = self.model
        if self.online:
            pairs = zip(copy_layers(model.q_net_target), self.online, strict=True)
            self.is_same.append(all(np.array_equal(target, online) for target, online in pairs))
        self.online = copy_layers(model.q_net)
        return True


def test_dqn_target_network_follows_online_network_every_step() -> None:
    config = load_course_config("dqn")
    model = build_model(config, make_vec_env(config, seed=0), seed=0)
    recorder = TargetRecorder()
    model.learn(60, callback=recorder)
    assert model._n_updates == 5 * 28
    assert recorder.is_same == [True] * 59


def test_epsilon_and_target_network_change_every_episode() -> None:
    for name in ("ddqn", "graded", "angle"):
        model = make_untrained_model(name)
        assert model.target_update_episodes == 1
        assert model.exploration is not None
        rates = [model.exploration(number, timestep) for number, timestep in ((0, 0), (1, 30), (499, 90_000))]
        assert rates == pytest.approx([0.901, 0.451, 0.0028])


@pytest.mark.parametrize(("name", "updates"), [("ddqn", 5), ("graded", 3)])
def test_updates_start_after_32_transitions(name: str, updates: int) -> None:
    config = load_course_config(name)
    model = build_model(config, make_vec_env(config, seed=0), seed=0)
    model.learn(32)
    assert model._n_updates == 0
    model.learn(4, reset_num_timesteps=False)
    assert model._n_updates == 4 * updates


def test_training_ends_after_the_programs_number_of_episodes(toolkit: Toolkit) -> None:
    overrides = ["--set", "callbacks.0.params.threshold=201", "--set", "algorithm.params.learning_starts=9_999"]
    assert toolkit("train", PROJECT / "configs" / "course_graded.yaml", *overrides, "--out", "run").status == 0
    result = json.loads(Path("run/result.json").read_text())
    assert (result["status"], result["episodes"]) == ("finished", 20)


@pytest.mark.parametrize(
    ("name", "episodes", "window"), [("ddqn", 500, 10), ("dqn", 500, 10), ("graded", 20, 5), ("angle", 20, 5)]
)
def test_timesteps_suffice_for_all_episodes(name: str, episodes: int, window: int) -> None:
    config = load_course_config(name)
    params = {callback.name: callback.params for callback in config.callbacks}
    assert params["max_episodes"] == {"max_episodes": episodes}
    assert params["success"] == {"threshold": 195, "episodes": window}
    assert config.timesteps >= 199 * episodes


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        (
            ["algorithm.params.batch_size=64", "algorithm.params.buffer_size=32"],
            "algorithm",
            "a batch_size of 64 cannot be drawn without replacement from a buffer of 32 transitions",
        ),
        (
            ["algorithm.params.exploration={name: linear, params: {start: 1.0}}"],
            "algorithm.params.exploration",
            "'linear' does not fit: it is called with (progress_remaining), here with (int, int)",
        ),
        (
            ["algorithm.params.exploration={name: harmonic, params: {final: 0.5, scale: 0.9}}"],
            "algorithm.params.exploration",
            "final and scale must be at least 0 and at most 1 together, not 0.5 and 0.9",
        ),
        (
            ["algorithm.params.exploration_fraction=0.2"],
            "algorithm",
            "exploration replaces exploration_fraction: give one or the other",
        ),
        (
            ["algorithm.params.target_update_interval=[0, episode]"],
            "algorithm.params.target_update_interval",
            "target_update_interval must be steps or (n, 'step' | 'episode'), n at least 1, not (0, 'episode')",
        ),
        (
            ["algorithm.params.loss=mae"],
            "algorithm.params.loss",
            "should be 'huber' or 'mse' or null, not 'mae'",
        ),
        (
            ["env.n_envs=2", "algorithm.params.train_freq=[1, episode]"],
            "algorithm.params.train_freq",
            "is counted in episodes, but 2 environments end them at different times",
        ),
    ],
    ids=["buffer", "schedule", "epsilon", "two_explorations", "no_episode", "loss", "train_freq"],
)
def test_incompatible_parameters_are_refused_and_nothing_is_written(
    command: str, settings: list[str], path: str, message: str, toolkit: Toolkit
) -> None:
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    finished = toolkit(command, PROJECT / "configs" / "course_ddqn.yaml", *arguments)
    assert (finished.status, finished.out) == (2, "")
    assert f" {path}: " in finished.err
    assert message in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not files_in(Path.cwd())


def test_target_updates_by_episode_work_with_several_environments(toolkit: Toolkit) -> None:
    settings = ["--set", "env.n_envs=4", "--set", "timesteps=400", "--out", "run", "--quiet"]
    finished = toolkit("train", PROJECT / "configs" / "course_ddqn.yaml", *settings)
    assert (finished.status, finished.err) == (0, "")
