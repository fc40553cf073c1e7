"""Minibatches gathered from a replay buffer's memory are those that the buffer samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from support import PROJECT

from toolkit.algorithms.replay import ReplayMemory, has_stock_scaling

SIZE = 100


def fill_buffer(n_envs: int, steps: int, **params: Any) -> ReplayBuffer:
    """Return a replay buffer with terminated and truncated episodes of random actions."""
    env = make_vec_env("CartPole-v1", n_envs, seed=1, env_kwargs={"max_episode_steps": 15})
    model = DQN("MlpPolicy", env, learning_starts=10**6, buffer_size=SIZE * n_envs, seed=1, **params)
    model.learn(steps * n_envs)
    assert isinstance(model.replay_buffer, ReplayBuffer)
    return model.replay_buffer


def make_normalizer(n_envs: int, **params: Any) -> VecNormalize:
    """Return a wrapper whose statistics scale and shift, and clip some values."""
    normalizer = VecNormalize(make_vec_env("CartPole-v1", n_envs), clip_obs=1.5, clip_reward=0.9, **params)
    normalizer.ret_rms.var = np.float64(1.3)
    if normalizer.norm_obs:
        normalizer.obs_rms.mean, normalizer.obs_rms.var = np.linspace(-0.1, 0.1, 4), np.linspace(0.01, 0.3, 4)
    return normalizer


@pytest.mark.parametrize("params", [None, {"norm_obs": False}, {}, {"norm_reward": False}], ids=str)
@pytest.mark.parametrize("steps", [30, 250])  # not yet full; the newest step in the middle
@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_gathered_batch_equals_samples_of_buffer(
    n_envs: int, n_steps: int, steps: int, params: dict[str, Any] | None
) -> None:
    buffer = fill_buffer(n_envs, steps, n_steps=n_steps)
    normalizer = None if params is None else make_normalizer(n_envs, **params)
    memory = ReplayMemory(buffer)
    assert memory.can_gather(buffer)
    assert has_stock_scaling(normalizer)
    steps_drawn = np.random.default_rng(0).integers(0, buffer.size(), size=500)
    np.random.seed(0)
    ours = memory.gather(buffer, steps_drawn, normalizer)
    np.random.seed(0)
    theirs = buffer._get_samples(steps_drawn, normalizer)
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
    ("params", "expected"),
    [
        ({}, 52),
        ({"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}, 32),
    ],
    ids=["stock", "optimize_memory_usage"],
)
def test_transition_takes_bytes_that_docs_name(params: dict[str, Any], expected: int) -> None:
    buffer = fill_buffer(2, SIZE + 10, **params)
    arrays = [array for array in vars(buffer).values() if isinstance(array, np.ndarray) and array.any()]
    assert sum(array.nbytes for array in arrays) == expected * SIZE * 2
    docs = (PROJECT / "docs" / "reference" / "components.md").read_text(encoding="utf-8")
    assert f" takes {expected} bytes" in docs.replace("\n", " ")


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
