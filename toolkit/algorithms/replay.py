"""Minibatches taken straight from a replay buffer's memory."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

Rows = NDArray[np.int64]  # of memory that is (vector steps * environments, ...)


class StoredBatch(NamedTuple):
    """A minibatch that still lies in the replay buffer's memory, for a compiled update to gather.

    :param rows: (batch,), which rows of the memory it consists of; every other field is (rows of the memory, ...)
    """

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    timeouts: th.Tensor
    rewards: th.Tensor
    rows: th.Tensor

    def gather(self) -> ReplayBufferSamples:
        """Return the minibatch, copied out of the memory."""
        observations, actions, next_observations, dones, timeouts, rewards = (
            memory.index_select(0, self.rows) for memory in self[:-1]
        )
        return ReplayBufferSamples(observations, actions, next_observations, dones * (1 - timeouts), rewards)


_get_arrays = operator.attrgetter(*StoredBatch._fields[:-1])
_memories: WeakKeyDictionary[ReplayBuffer, tuple[tuple[NDArray[Any], ...], list[th.Tensor]]] = WeakKeyDictionary()


def can_gather(buffer: ReplayBuffer) -> bool:
    """Return whether :func:`gather_batch` knows how a replay buffer stores its transitions."""
    return type(buffer) in (ReplayBuffer, NStepReplayBuffer) and not buffer.optimize_memory_usage


def gather_batch(buffer: ReplayBuffer, steps: NDArray[np.int64]) -> ReplayBufferSamples:
    """Return the transitions of a random environment at each of these vector steps, as the buffer itself would.

    Memory is indexed once, by rows that are each one environment's at one step, and not copied again.
    """
    rows = _choose_rows(buffer, steps)
    last_rows, rewards, discounts = rows, _take_rows(buffer.rewards, rows)[:, None], None
    if isinstance(buffer, NStepReplayBuffer):
        last_rows, rewards, discounts = _compute_n_step_returns(buffer, rows)
    is_terminal = _take_rows(buffer.dones, last_rows) * (1 - _take_rows(buffer.timeouts, last_rows))
    return ReplayBufferSamples(
        observations=_to_tensor(buffer, _take_rows(buffer.observations, rows)),
        actions=_to_tensor(buffer, _take_rows(buffer.actions, rows)),
        next_observations=_to_tensor(buffer, _take_rows(buffer.next_observations, last_rows)),
        dones=_to_tensor(buffer, is_terminal[:, None]),
        rewards=_to_tensor(buffer, rewards),
        discounts=None if discounts is None else _to_tensor(buffer, discounts),
    )


def reference_batch(buffer: ReplayBuffer, steps: NDArray[np.int64]) -> StoredBatch | ReplayBufferSamples:
    """Return what :func:`gather_batch` does, but leave the transitions in the buffer's memory where that can be done.

    It can for one-step transitions of vectors in the memory of the CPU.
    """
    if type(buffer) is not ReplayBuffer or buffer.observations.ndim != 3 or th.device(buffer.device).type != "cpu":
        return gather_batch(buffer, steps)
    return StoredBatch._make([*_view_memory(buffer), th.from_numpy(_choose_rows(buffer, steps))])


def _view_memory(buffer: ReplayBuffer) -> list[th.Tensor]:
    """Return a buffer's whole memory as tensors, made anew only if the buffer has other arrays than before."""
    arrays = _get_arrays(buffer)
    known_arrays, tensors = _memories.get(buffer, ((), []))
    if not known_arrays or not all(map(operator.is_, known_arrays, arrays)):
        tensors = [th.from_numpy(array.reshape(buffer.buffer_size * buffer.n_envs, -1)) for array in arrays]
        _memories[buffer] = arrays, tensors
    return tensors


def _choose_rows(buffer: ReplayBuffer, steps: NDArray[np.int64]) -> Rows:
    if buffer.n_envs == 1:  # as in SB3, nothing is drawn then
        return steps
    return steps * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=len(steps))


def _compute_n_step_returns(
    buffer: NStepReplayBuffer, rows: Rows
) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32]]:
    """Return the row where each transition's n steps end, and (batch, 1) their returns and the discount after them.

    The steps end early with the episode, and at the newest step, because the oldest one follows it in memory.
    """
    offsets = np.arange(buffer.n_steps)
    window = (rows[:, None] + offsets * buffer.n_envs) % (buffer.buffer_size * buffer.n_envs)
    is_end = (_take_rows(buffer.dones, window) + _take_rows(buffer.timeouts, window)) > 0
    is_end |= window // buffer.n_envs == (buffer.pos - 1) % buffer.buffer_size
    is_end[:, -1] = True
    last_offsets = is_end.argmax(axis=1)[:, None]
    weights = buffer.gamma ** offsets.astype(np.float32) * (offsets <= last_offsets)
    returns = (_take_rows(buffer.rewards, window) * weights).sum(axis=1, keepdims=True)
    discounts = buffer.gamma ** (last_offsets + 1).astype(np.float32)
    return np.take_along_axis(window, last_offsets, axis=1)[:, 0], returns, discounts


def _take_rows(memory: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Return rows of memory that is (vector steps, environments, ...)."""
    return memory.reshape(-1, *memory.shape[2:]).take(rows, axis=0)


def _to_tensor(buffer: ReplayBuffer, array: NDArray[Any]) -> th.Tensor:
    values = th.from_numpy(array)
    if values.ndim == 4:  # images are laid out pixel by pixel: convolutions take a third less time
        values = th.stack(values.unbind(1), dim=-1).permute(0, 3, 1, 2)
    return values.to(buffer.device)
