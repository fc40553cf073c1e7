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

Rows = NDArray[np.int64]


class Stored(NamedTuple):
    """Drawn transitions where they lie, for a compiled update to take: memory, a row a transition, and the rows."""

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    timeouts: th.Tensor
    rewards: th.Tensor
    rows: th.Tensor

    def taken(self) -> ReplayBufferSamples:
        """Return the minibatch."""
        observations, actions, next_observations, dones, timeouts, rewards = (
            memory.index_select(0, self.rows) for memory in self[:-1]
        )
        return ReplayBufferSamples(observations, actions, next_observations, dones * (1 - timeouts), rewards)


_arrays = operator.attrgetter(*Stored._fields[:-1])
_memories: WeakKeyDictionary[ReplayBuffer, tuple[tuple[NDArray[Any], ...], list[th.Tensor]]] = WeakKeyDictionary()


def can_gather(buffer: ReplayBuffer) -> bool:
    """Say whether :func:`gather` knows where a replay buffer has its transitions."""
    return type(buffer) in (ReplayBuffer, NStepReplayBuffer) and not buffer.optimize_memory_usage


def stored(buffer: ReplayBuffer, steps: Rows) -> Stored | ReplayBufferSamples:
    """Return what :func:`gather` does, but leave single steps of vectors in memory, if it is that of the device."""
    if type(buffer) is not ReplayBuffer or buffer.observations.ndim != 3 or th.device(buffer.device).type != "cpu":
        return gather(buffer, steps)
    return Stored._make([*_memory(buffer), th.from_numpy(_rows(buffer, steps))])


def _memory(buffer: ReplayBuffer) -> list[th.Tensor]:
    """Return all of a buffer's memory as :class:`Stored` has it; looked up again only if it is another."""
    arrays = _arrays(buffer)
    known, tensors = _memories.get(buffer, ((), []))
    if not known or not all(map(operator.is_, known, arrays)):
        tensors = [th.from_numpy(array.reshape(buffer.buffer_size * buffer.n_envs, -1)) for array in arrays]
        _memories[buffer] = arrays, tensors
    return tensors


def gather(buffer: ReplayBuffer, steps: Rows) -> ReplayBufferSamples:
    """Return the transitions of a random environment at each of these vector steps, as the buffer itself would.

    Memory is indexed once, by rows that are each one environment's at one step, and not copied again.
    """
    rows = _rows(buffer, steps)
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


def _rows(buffer: ReplayBuffer, steps: Rows) -> Rows:
    if buffer.n_envs == 1:  # for which nothing is drawn
        return steps
    return steps * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=len(steps))


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
