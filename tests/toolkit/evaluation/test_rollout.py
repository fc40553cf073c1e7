from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO

import toolkit
from toolkit.config.load import load_config
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import make_vec_env
from toolkit.evaluation.rollout import play_greedy_episodes
from toolkit.training.model import limit_torch_threads

CARTPOLE = "{id: CartPole-v1, max_episode_steps: 30, n_envs: %d, wrappers: [terminal_reward_clip]}"
CUT = (
    "{id: CartPole-v1, n_envs: %d, wrappers: "
    '[terminal_reward_clip, {name: "gymnasium.wrappers:TimeLimit", params: {max_episode_steps: 5}}]}'
)
TAXI = "{id: Taxi-v4, max_episode_steps: 6, n_envs: %d, wrappers: [info_action_mask]}"

GAMBLER = """\
import json
import random

import gymnasium as gym
import numpy as np
import torch


class Gambler(gym.Wrapper):
    '''Draws from every global generator.'''

    def step(self, action):
        random.random(), np.random.rand(), torch.rand(1)
        return self.env.step(action)
"""


def make_env(env: str) -> EpisodeRecorder:
    path = Path("config.yaml")
    path.write_text(f"timesteps: 100\nenv: {env}\nalgorithm: ppo\n")
    return make_vec_env(load_config(path), seed=0)


def get_generator_states() -> tuple[Any, ...]:
    _, keys, *position = np.random.get_state()
    return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("episodes", [1, 4])
def test_greedy_episodes_return_requested_number_of_raw_returns(n_envs: int, episodes: int) -> None:
    env = make_env(CARTPOLE % n_envs)
    returns = play_greedy_episodes(DQN("MlpPolicy", env, buffer_size=10, seed=0), env, episodes).returns
    assert len(returns) == episodes
    assert all(isinstance(value, float) and 8 <= value <= 30 for value in returns)
    if n_envs == 1:
        assert returns == [episode.raw_return for episode in env.episodes]


def test_greedy_episodes_are_repeatable() -> None:
    def returns() -> list[float]:
        env = make_env(CARTPOLE % 2)
        return play_greedy_episodes(
            PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu"), env, 6
        ).returns

    assert returns() == returns()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_wrapper_truncates_greedy_episodes(n_envs: int) -> None:
    env = make_env(CUT % n_envs)
    assert play_greedy_episodes(DQN("MlpPolicy", env, buffer_size=10, seed=0), env, 4).returns == [5.0] * 4


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "policy", "env", "low", "high"),
    [
        (RecurrentPPO, "MlpLstmPolicy", CARTPOLE, 8, 30),
        (MaskablePPO, "MlpPolicy", TAXI, -6, 20),  # an invalid pickup or drop-off would cost 10
        (PPO, "MlpPolicy", CARTPOLE, 8, 30),
    ],
)
def test_recurrent_and_maskable_policies_play_greedily(
    algorithm: type[Any], policy: str, env: str, low: float, high: float, n_envs: int
) -> None:
    venv = make_env(env % n_envs)
    model = algorithm(policy, venv, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    returns = play_greedy_episodes(model, venv, 3).returns
    assert len(returns) == 3
    assert all(low <= value <= high for value in returns)


def test_greedy_episodes_keep_global_random_state(working_directory: Path) -> None:
    (working_directory / "gambler.py").write_text(GAMBLER)
    env = make_env('{id: CartPole-v1, max_episode_steps: 30, wrappers: ["./gambler.py:Gambler"]}')
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    before = get_generator_states()
    play_greedy_episodes(model, env, 2)
    assert get_generator_states() == before
    env.step(np.zeros(1, int))
    assert all(after != state for after, state in zip(get_generator_states(), before, strict=True))


def test_failed_episode_keeps_global_random_state(working_directory: Path) -> None:
    (working_directory / "fails.py").write_text(f"{GAMBLER}        raise RuntimeError('broken')\n")
    source = (working_directory / "fails.py").read_text().replace("        return self.env.step(action)\n", "")
    (working_directory / "fails.py").write_text(source)
    env = make_env('{id: CartPole-v1, wrappers: ["./fails.py:Gambler"]}')
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    before = get_generator_states()
    with pytest.raises(RuntimeError, match="broken"):
        play_greedy_episodes(model, env, 2)
    assert get_generator_states() == before


# --- Threads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def make_dqn(width: int) -> DQN:
    return DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [width, width]}, buffer_size=10)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("width", "threads"), [(16, 1), (1024, 3)])
def test_only_small_network_is_limited_to_one_thread(width: int, threads: int) -> None:
    with limit_torch_threads(make_dqn(width)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_environment_json_has_threads_of_small_network(config_file: Path) -> None:
    run = toolkit.train(config_file, timesteps=2)
    assert json.loads((run.directory / "environment.json").read_text())["threads"] == 1


@pytest.mark.usefixtures("three_threads")
def test_error_restores_number_of_threads() -> None:
    with pytest.raises(RuntimeError, match="broken"), limit_torch_threads(make_dqn(16)):
        raise RuntimeError("broken")
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_omp_num_threads_overrides_thread_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with limit_torch_threads(make_dqn(16)):
        assert torch.get_num_threads() == 3
