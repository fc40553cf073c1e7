"""Minibatches taken straight from a replay buffer's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

Rows = NDArray[np.int64]


def can_gather(buffer: ReplayBuffer) -> bool:
    """Say whether :func:`gather` knows where a replay buffer has its transitions."""
    return type(buffer) in (ReplayBuffer, NStepReplayBuffer) and not buffer.optimize_memory_usage


def gather(buffer: ReplayBuffer, steps: Rows) -> ReplayBufferSamples:
    """Return the transitions of a random environment at each of these vector steps, as the buffer itself would.

    Memory is indexed once, by rows that are each one environment's at one step, and not copied again.
    """
    rows = steps * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=len(steps))
    last, rewards, discounts = rows, _taken(buffer.rewards, rows)[:, None], None
    if isinstance(buffer, NStepReplayBuffer):
        last, rewards, discounts = _n_steps(buffer, rows)
    return ReplayBufferSamples(
        observations=_tensor(buffer, _taken(buffer.observations, rows)),
        actions=_tensor(buffer, _taken(buffer.actions, rows)),
        next_observations=_tensor(buffer, _taken(buffer.next_observations, last)),
        dones=_tensor(buffer, (_taken(buffer.dones, last) * (1 - _taken(buffer.timeouts, last)))[:, None]),
        rewards=_tensor(buffer, rewards),
        discounts=None if discounts is None else _tensor(buffer, discounts),
    )


def _n_steps(buffer: NStepReplayBuffer, rows: Rows) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32]]:
    """Return the row where each transition's n steps end, and (batch, 1) their returns and the discount after them.

    They end early with the episode, and at the newest step, which the oldest one follows in memory.
    """
    ahead = np.arange(buffer.n_steps)
    reached = (rows[:, None] + ahead * buffer.n_envs) % (buffer.buffer_size * buffer.n_envs)
    ends = (_taken(buffer.dones, reached) + _taken(buffer.timeouts, reached)) > 0
    ends |= reached // buffer.n_envs == (buffer.pos - 1) % buffer.buffer_size
    ends[:, -1] = True
    more = ends.argmax(axis=1)[:, None]
    weights = buffer.gamma ** ahead.astype(np.float32) * (ahead <= more)
    returns = (_taken(buffer.rewards, reached) * weights).sum(axis=1, keepdims=True)
    return np.take_along_axis(reached, more, axis=1)[:, 0], returns, buffer.gamma ** (more + 1).astype(np.float32)


def _taken(memory: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Take rows out of memory that is (steps, environments, ...)."""
    return memory.reshape(-1, *memory.shape[2:]).take(rows, axis=0)


def _tensor(buffer: ReplayBuffer, array: NDArray[Any]) -> th.Tensor:
    values = th.from_numpy(array)
    if values.ndim == 4:  # images, pixel by pixel: so convolutions take a third less time
        values = th.stack(values.unbind(1), dim=-1).permute(0, 3, 1, 2)
    return values.to(buffer.device)
