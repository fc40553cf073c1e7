from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from toolkit.algorithms.replay import can_gather, gather_batch

SIZE = 100


def played(n_envs: int, steps: int, **params: Any) -> ReplayBuffer:
    """Return the replay buffer of a model that has acted by chance, in episodes that end and are cut short."""
    env = make_vec_env("CartPole-v1", n_envs, seed=1, env_kwargs={"max_episode_steps": 15})
    model = DQN("MlpPolicy", env, learning_starts=10**6, buffer_size=SIZE * n_envs, seed=1, **params)
    model.learn(steps * n_envs)
    assert isinstance(model.replay_buffer, ReplayBuffer)
    return model.replay_buffer


@pytest.mark.parametrize("steps", [30, 250])  # not yet full; the newest step in the middle
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_a_minibatch_is_the_one_that_the_buffer_itself_gives(n_envs: int, n_steps: int, steps: int) -> None:
    buffer = played(n_envs, steps, n_steps=n_steps)
    assert can_gather(buffer)
    drawn = np.random.default_rng(0).integers(0, buffer.size(), size=500)
    np.random.seed(0)
    ours = gather_batch(buffer, drawn)
    np.random.seed(0)
    theirs = buffer._get_samples(drawn)
    for name, mine, other in zip(ours._fields, ours, theirs, strict=True):
        if other is None:
            assert mine is None, name
        else:
            assert mine.dtype == other.dtype, name
            assert th.equal(mine, other), name


def test_buffers_that_keep_transitions_otherwise_are_asked_themselves() -> None:
    buffer = played(1, 30, optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False})
    assert not can_gather(buffer)
