from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO

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


def vec_env(env: str) -> EpisodeRecorder:
    path = Path("config.yaml")
    path.write_text(f"timesteps: 100\nenv: {env}\nalgorithm: ppo\n")
    return make_vec_env(load_config(path), seed=0)


def generator_states() -> tuple[Any, ...]:
    _, keys, *position = np.random.get_state()
    return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("episodes", [1, 4, 7])
def test_it_returns_the_raw_return_of_as_many_episodes_as_asked_for(n_envs: int, episodes: int) -> None:
    env = vec_env(CARTPOLE % n_envs)
    returns = play_greedy_episodes(DQN("MlpPolicy", env, buffer_size=10, seed=0), env, episodes)
    assert len(returns) == episodes
    assert all(isinstance(one, float) and 8 <= one <= 30 for one in returns)
    played = [episode.raw_return for episode in env.episodes]
    assert sorted(returns) == sorted(played[:episodes]) if n_envs == 1 else set(returns) <= set(played)


def test_it_plays_without_chance() -> None:
    def returns() -> list[float]:
        env = vec_env(CARTPOLE % 2)
        return play_greedy_episodes(PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu"), env, 6)

    assert returns() == returns()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_episodes_that_a_wrapper_cuts_short_come_to_an_end(n_envs: int) -> None:
    env = vec_env(CUT % n_envs)
    assert play_greedy_episodes(DQN("MlpPolicy", env, buffer_size=10, seed=0), env, 4) == [5.0] * 4


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "policy", "env", "low", "high"),
    [
        (RecurrentPPO, "MlpLstmPolicy", CARTPOLE, 8, 30),
        (MaskablePPO, "MlpPolicy", TAXI, -6, 20),  # an invalid pickup or drop-off would cost 10
        (PPO, "MlpPolicy", CARTPOLE, 8, 30),
    ],
)
def test_it_plays_recurrent_and_masked_policies(
    algorithm: type[Any], policy: str, env: str, low: float, high: float, n_envs: int
) -> None:
    venv = vec_env(env % n_envs)
    model = algorithm(policy, venv, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    returns = play_greedy_episodes(model, venv, 3)
    assert len(returns) == 3
    assert all(low <= one <= high for one in returns)


def test_the_global_random_generators_are_left_as_they_were(working_directory: Path) -> None:
    (working_directory / "gambler.py").write_text(GAMBLER)
    env = vec_env('{id: CartPole-v1, max_episode_steps: 30, wrappers: ["./gambler.py:Gambler"]}')
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    before = generator_states()
    play_greedy_episodes(model, env, 2)
    assert generator_states() == before
    env.step(np.zeros(1, int))
    assert all(now != then for now, then in zip(generator_states(), before, strict=True))


def test_the_global_random_generators_are_left_as_they_were_when_an_episode_fails(working_directory: Path) -> None:
    (working_directory / "fails.py").write_text(f"{GAMBLER}        raise RuntimeError('broken')\n")
    source = (working_directory / "fails.py").read_text().replace("        return self.env.step(action)\n", "")
    (working_directory / "fails.py").write_text(source)
    env = vec_env('{id: CartPole-v1, wrappers: ["./fails.py:Gambler"]}')
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    before = generator_states()
    with pytest.raises(RuntimeError, match="broken"):
        play_greedy_episodes(model, env, 2)
    assert generator_states() == before


# Threads.


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(chosen)


def dqn(width: int) -> DQN:
    return DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [width, width]}, buffer_size=10)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("width", "threads"), [(16, 1), (1024, 3)])
def test_a_small_network_computes_with_one_thread_and_a_large_one_with_those_there_are(
    width: int, threads: int
) -> None:
    with limit_torch_threads(dqn(width)):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_the_threads_come_back_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="broken"), limit_torch_threads(dqn(16)):
        raise RuntimeError("broken")
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_number_of_threads_in_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with limit_torch_threads(dqn(16)):
        assert torch.get_num_threads() == 3
