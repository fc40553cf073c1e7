"""Minibatches gathered from a replay buffer's memory are those that the buffer samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from toolkit.algorithms.replay import ReplayMemory

SIZE = 100


def fill_buffer(n_envs: int, steps: int, **params: Any) -> ReplayBuffer:
    """Return a replay buffer with terminated and truncated episodes of random actions."""
    env = make_vec_env("CartPole-v1", n_envs, seed=1, env_kwargs={"max_episode_steps": 15})
    model = DQN("MlpPolicy", env, learning_starts=10**6, buffer_size=SIZE * n_envs, seed=1, **params)
    model.learn(steps * n_envs)
    assert isinstance(model.replay_buffer, ReplayBuffer)
    return model.replay_buffer


@pytest.mark.parametrize("steps", [30, 250])  # not yet full; the newest step in the middle
@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_gathered_batch_equals_samples_of_buffer(n_envs: int, n_steps: int, steps: int) -> None:
    buffer = fill_buffer(n_envs, steps, n_steps=n_steps)
    memory = ReplayMemory(buffer)
    assert memory.can_gather(buffer)
    steps_drawn = np.random.default_rng(0).integers(0, buffer.size(), size=500)
    np.random.seed(0)
    ours = memory.gather(buffer, steps_drawn)
    np.random.seed(0)
    theirs = buffer._get_samples(steps_drawn)
    for name, actual, expected in zip(ours._fields, ours, theirs, strict=True):
        if expected is None:
            assert actual is None, name
        else:
            assert actual.dtype == expected.dtype, name
            assert th.equal(actual, expected), name


def test_memory_optimized_buffer_is_not_gathered() -> None:
    buffer = fill_buffer(1, 30, optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False})
    assert not ReplayMemory(buffer).can_gather(buffer)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("observations", np.asfortranarray),
        ("next_observations", lambda array: array[::-1]),
        ("rewards", lambda array: array.astype(np.float64)),
        ("actions", lambda array: array[:-1]),
        ("observations", np.ma.masked_array),
    ],
    ids=["fortran", "reversed", "float64-rewards", "shorter", "masked"],
)
def test_replaced_arrays_of_another_layout_are_not_gathered(name: str, convert: Any) -> None:
    buffer = fill_buffer(2, 30)
    memory = ReplayMemory(buffer)
    setattr(buffer, name, convert(getattr(buffer, name)))
    assert not memory.is_current(buffer)
    assert not ReplayMemory(buffer).can_gather(buffer)


def test_replaced_arrays_of_same_layout_are_gathered() -> None:
    buffer = fill_buffer(2, 30)
    memory = ReplayMemory(buffer)
    buffer.rewards = np.full_like(buffer.rewards, 7)
    assert not memory.is_current(buffer)
    assert (ReplayMemory(buffer).gather(buffer, np.arange(5)).rewards == 7).all()
