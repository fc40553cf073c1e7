"""Minibatches taken straight from a replay buffer's memory."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from toolkit.algorithms.stock import get_functions, has_methods

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


get_arrays = operator.attrgetter(*StoredBatch._fields[:-1])
_METHODS = ("sample", "_get_samples", "_normalize_obs", "_normalize_reward", "to_torch")
BUFFER_FUNCTIONS = get_functions(
    [
        *((ReplayBuffer, name) for name in _METHODS),
        *((BaseBuffer, "sample"), (NStepReplayBuffer, "sample"), (NStepReplayBuffer, "_get_samples")),
    ]
)
_SAMPLE_METHODS = [{"sample": cls.sample} for cls in (ReplayBuffer, DictReplayBuffer)]
_BASE_SAMPLE = BaseBuffer.sample
_SCALING_METHODS = {name: getattr(VecNormalize, name) for name in ("normalize_obs", "normalize_reward")}


def has_stock_sample(buffer: ReplayBuffer) -> bool:
    """Return whether a replay buffer draws as SB3's do: each stored vector step with the same probability."""
    return BaseBuffer.sample is _BASE_SAMPLE and any(has_methods(buffer, methods) for methods in _SAMPLE_METHODS)


def has_stock_scaling(env: VecNormalize | None) -> bool:
    """Return whether nothing normalizes minibatches, or SB3's own methods do."""
    return env is None or has_methods(env, _SCALING_METHODS)


class ReplayMemory:
    """A replay buffer's arrays, from which minibatches are taken straight.

    :param buffer: what is stored in it may change at any time; after other changes :meth:`is_current` is false. It is
        an argument of the methods, as a memory does not keep its buffer
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._class, self._shape = type(buffer), (buffer.buffer_size, buffer.n_envs)
        is_known = type(buffer) in (ReplayBuffer, NStepReplayBuffer) and not buffer.optimize_memory_usage
        self._arrays = get_arrays(buffer) if is_known else ()
        self._is_plain = is_known and all(map(_is_plain_array, self._arrays, repeat(self._shape)))
        if self._is_plain:
            self._is_plain = {array.dtype for array in self._arrays[-3:]} == {np.dtype(np.float32)}
            n_rows = buffer.buffer_size * buffer.n_envs
            self._rows = [array.reshape(n_rows, *array.shape[2:]) for array in self._arrays]
        self._tensors: list[th.Tensor] = []

    def is_current(self, buffer: ReplayBuffer) -> bool:
        """Return whether these are still the arrays of the buffer."""
        if type(buffer) is not self._class or self._shape != (buffer.buffer_size, buffer.n_envs):
            return False
        return not self._arrays or all(map(operator.is_, self._arrays, get_arrays(buffer)))

    def can_gather(self, buffer: ReplayBuffer) -> bool:
        """Return whether :meth:`gather` does what the buffer's own ``sample`` would, by :data:`BUFFER_FUNCTIONS`."""
        return self._is_plain and vars(buffer).keys().isdisjoint(_METHODS)

    def gather(
        self, buffer: ReplayBuffer, steps: NDArray[np.int64], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        """Return the transitions of a random environment at each of these vector steps, as the buffer itself would.

        Memory is indexed once, by rows that are each one environment's at one step, and not copied again.

        :param env: normalizes observations and rewards, by methods that :func:`has_stock_scaling` has checked
        """
        return gather_transitions(buffer, self._rows, _choose_rows(buffer, steps), env)

    def refer(
        self, buffer: ReplayBuffer, steps: NDArray[np.int64], env: VecNormalize | None = None
    ) -> StoredBatch | ReplayBufferSamples:
        """Return what :meth:`gather` does, but leave the transitions in the buffer's memory where that can be done.

        It can for one-step transitions of vectors in the memory of the CPU that nothing normalizes.
        """
        is_one_step = type(buffer) is ReplayBuffer
        is_vector_in_cpu = self._rows[0].ndim == 2 and th.device(buffer.device).type == "cpu"
        if env is not None or not is_one_step or not is_vector_in_cpu:
            return self.gather(buffer, steps, env)
        if not self._tensors:
            self._tensors = [th.from_numpy(rows.reshape(len(rows), -1)) for rows in self._rows]
        return StoredBatch._make([*self._tensors, th.from_numpy(_choose_rows(buffer, steps))])


def gather_transitions(
    buffer: ReplayBuffer, arrays: Iterable[Any], rows: Rows, env: VecNormalize | None = None
) -> ReplayBufferSamples:
    """Return the transitions at rows of a buffer's memory, as SB3's buffers make minibatches of them.

    A buffer with ``n_steps`` gives n-step returns, as ``NStepReplayBuffer`` does.

    :param arrays: the buffer's arrays as (rows of the memory, ...), in the order of :class:`StoredBatch`; observations
        may be mappings of arrays
    """
    observations, actions, next_observations, dones, timeouts, rewards = arrays
    last_rows, discounts = rows, None
    if isinstance(buffer, NStepReplayBuffer) or getattr(buffer, "n_steps", 1) > 1:
        last_rows, returns, discounts = _compute_n_step_returns(buffer, (dones, timeouts, rewards), rows, env)
    else:
        returns = buffer._normalize_reward(rewards.take(rows)[:, None], env)
    is_terminal = dones.take(last_rows) * (1 - timeouts.take(last_rows))
    device = th.device(buffer.device)
    return ReplayBufferSamples(
        observations=_to_tensor(buffer._normalize_obs(_take(observations, rows), env), device),
        actions=_to_tensor(actions.take(rows, axis=0), device),
        next_observations=_to_tensor(buffer._normalize_obs(_take(next_observations, last_rows), env), device),
        dones=_to_tensor(is_terminal[:, None], device),
        rewards=_to_tensor(returns, device),
        discounts=None if discounts is None else _to_tensor(discounts, device),
    )


def _compute_n_step_returns(
    buffer: Any, arrays: tuple[Any, Any, Any], rows: Rows, env: VecNormalize | None
) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32]]:
    """Return the rows where n steps end, and (batch, 1) their returns and the discounts after them.

    The steps end early with the episode, and at the newest step, because the oldest one follows it in memory.
    """
    dones, timeouts, rewards = arrays
    offsets = np.arange(buffer.n_steps)
    window = rows[:, None] + offsets * buffer.n_envs  # may pass the end of the memory, and then starts anew
    is_end = (dones.take(window, mode="wrap") + timeouts.take(window, mode="wrap")) > 0
    is_end |= offsets == ((buffer.pos - 1 - rows // buffer.n_envs) % buffer.buffer_size)[:, None]
    is_end[:, -1] = True
    last_offsets = is_end.argmax(axis=1)
    weights = buffer.gamma ** offsets.astype(np.float32) * (offsets <= last_offsets[:, None])
    returns = (buffer._normalize_reward(rewards.take(window, mode="wrap"), env) * weights).sum(axis=1, keepdims=True)
    discounts = buffer.gamma ** (last_offsets[:, None] + 1).astype(np.float32)
    return (rows + last_offsets * buffer.n_envs) % len(rewards), returns, discounts


def _take(observations: Any, rows: Rows) -> Any:
    if isinstance(observations, dict):
        return {key: array.take(rows, axis=0) for key, array in observations.items()}
    return observations.take(rows, axis=0)


def _is_plain_array(array: Any, shape: tuple[int, int]) -> bool:
    """Return whether an array is in C order, with (vector steps, environments, ...) as its axes."""
    return type(array) is np.ndarray and array.flags.c_contiguous and array.ndim > 1 and array.shape[:2] == shape


def _choose_rows(buffer: ReplayBuffer, steps: NDArray[np.int64]) -> Rows:
    if buffer.n_envs == 1:  # as in SB3, nothing is drawn then
        return steps
    return steps * buffer.n_envs + np.random.randint(0, high=buffer.n_envs, size=len(steps))


def _to_tensor(array: Any, device: th.device) -> Any:
    if isinstance(array, dict):
        return {key: _to_tensor(part, device) for key, part in array.items()}
    values = th.from_numpy(array)
    if values.ndim == 4:  # images are laid out pixel by pixel: convolutions take a third less time
        values = th.stack(values.unbind(1), dim=-1).permute(0, 3, 1, 2)
    return values if device.type == "cpu" else values.to(device)
