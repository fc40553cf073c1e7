"""The last steps of training: what a diagnosis needs of them, kept while training runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from toolkit.envs.action_count import ActionCount

_MAX_SAMPLES = 64
_MAX_SAMPLE_BYTES = 1 << 23  # of all observations; a snapshot holds them
_MAX_ACTION_BYTES = 1 << 22  # of all actions; a snapshot holds them
_MAX_BINS = 20
_TERMINATED, _TRUNCATED = 1, 2


class SampledReturn(NamedTuple):
    """The discounted rewards that followed an observation.

    :param value: their sum, until the episode ended or until now
    :param discount: of what would have come after; 0 if the environment terminated the episode
    :param has_ended: whether the episode has ended
    """

    value: float
    discount: float
    has_ended: bool


class RecentSteps:
    """Keep the actions, the rewards and the ends of the last steps, and an observation now and then.

    All are those that the algorithm sees. It draws no random numbers. A step costs three rows of small arrays.

    :param n_steps: how many of the last steps, over all environments
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], n_envs: int, n_steps: int
    ) -> None:
        self._size = -(-n_steps // n_envs)
        self._n = 0  # vector steps so far
        self._action_space = action_space
        shape = (self._size, n_envs, *(action_space.shape or ()))
        dtype = _get_action_dtype(action_space)
        is_small = int(np.prod(shape)) * dtype.itemsize <= _MAX_ACTION_BYTES
        has_actions = is_small or isinstance(action_space, gym.spaces.Discrete)
        self._actions: NDArray[Any] | None = np.zeros(shape, dtype) if has_actions else None
        self._rewards = np.zeros((self._size, n_envs), np.float32)
        self._ends = np.zeros((self._size, n_envs), np.uint8)
        self._largest_earlier_reward = 0.0
        n_samples = min(_MAX_SAMPLES, self._size, _MAX_SAMPLE_BYTES // max(1, _count_bytes(observation_space)))
        self._samples: deque[tuple[int, int, Any]] = deque(maxlen=n_samples)
        self._interval = self._size // max(1, n_samples)

    def add(self, observations: VecEnvObs, actions: NDArray[Any], rewards: NDArray[Any], dones: NDArray[Any]) -> None:
        """Add a vector step: the actions, and what followed."""
        row = self._n % self._size
        if self._actions is not None:
            self._actions[row] = np.reshape(actions, self._actions.shape[1:])
        self._rewards[row] = rewards
        self._ends[row] = dones
        self._n += 1
        if row + 1 == self._size:
            self._largest_earlier_reward = self.largest_reward
        if self._n % self._interval == 0 and self._samples.maxlen:
            index = self._n // self._interval % self._rewards.shape[1]
            self._samples.append((self._n, index, _take(observations, index)))

    def mark_truncated(self, index: int) -> None:
        """Note that the last step of an environment ended its episode and did not terminate it."""
        self._ends[(self._n - 1) % self._size, index] = _TRUNCATED

    def interrupt(self) -> None:
        """Note that a reset interrupts all running episodes."""
        row = self._ends[(self._n - 1) % self._size]
        row[row == 0] = _TRUNCATED
        if self._samples and self._samples[-1][0] == self._n:
            self._samples.pop()

    @property
    def is_full(self) -> bool:
        """Whether there were as many steps as it keeps."""
        return self._n >= self._size

    @property
    def n_steps(self) -> int:
        """How many steps it keeps, over all environments."""
        return self._rewards.size

    @property
    def largest_reward(self) -> float:
        """Largest absolute reward of the whole training; 0 before any."""
        return max(self._largest_earlier_reward, self.largest_recent_reward)

    @property
    def largest_recent_reward(self) -> float:
        """Largest absolute reward of the steps that it keeps; 0 before any."""
        return float(np.abs(self._rewards).max())

    def count_actions(self) -> dict[int, int]:
        """Return how often each action occurs; nothing if actions are not ``Discrete``."""
        if self._actions is None or not isinstance(self._action_space, gym.spaces.Discrete):
            return {}
        actions, counts = np.unique(self._actions[: self._n], return_counts=True)
        return dict(zip(actions.tolist(), counts.tolist(), strict=True))

    def count_action_ranges(self) -> list[ActionCount]:
        """Return a histogram of each component of the actions; nothing if they take too much memory.

        Whole numbers have a range each. Others have 20 ranges of equal width, between the bounds of the action space
        or, where it has none, between the smallest and the largest action.
        """
        if self._actions is None or not self._n:
            return []
        actions = self._actions[: self._n].reshape(min(self._n, self._size) * self._rewards.shape[1], -1)
        space = self._action_space
        if not isinstance(space, gym.spaces.Box) or np.issubdtype(space.dtype, np.integer):
            return [count for component in range(actions.shape[1]) for count in _count_values(component, actions)]
        lows = np.where(space.bounded_below, space.low, actions.min(0).reshape(space.shape)).ravel()
        highs = np.where(space.bounded_above, space.high, actions.max(0).reshape(space.shape)).ravel()
        return [
            count
            for component, limits in enumerate(zip(lows.tolist(), highs.tolist(), strict=True))
            for count in _count_ranges(component, actions[:, component].astype(np.float64), limits)
        ]

    @property
    def observations(self) -> Any:
        """The sampled observations as one batch, oldest first."""
        return _stack([observation for *_, observation in self._list_samples()])

    def sample_returns(self, gamma: float) -> list[SampledReturn]:
        """Return the discounted rewards that followed each sampled observation.

        :param gamma: the discount, 0 to 1
        """
        rows = np.arange(max(0, self._n - self._size), self._n) % self._size
        rewards, ends = self._rewards[rows], self._ends[rows]
        starts = [(step - self._n, index) for step, index, _ in self._list_samples()]
        return [_discount(rewards[start:, index], ends[start:, index], gamma) for start, index in starts]

    def _list_samples(self) -> list[tuple[int, int, Any]]:
        """Return the samples that a step followed."""
        return [sample for sample in self._samples if self._n - self._size <= sample[0] < self._n]

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data and arrays."""
        n = min(self._n, self._size)
        return {
            "steps": self._n,
            "actions": None if self._actions is None else self._actions[:n].copy(),
            "rewards": self._rewards[:n].copy(),
            "ends": self._ends[:n].copy(),
            "largest_earlier_reward": self._largest_earlier_reward,
            "samples": [[step, index] for step, index, _ in self._samples],
            "observations": _stack([observation for *_, observation in self._samples]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        :raises ValueError: if it is of another number of environments
        """
        self._n = int(state["steps"])
        n = min(self._n, self._size)
        if self._actions is not None and state["actions"] is not None:
            self._actions[:n] = state["actions"]
        elif n:  # of a version that kept only discrete actions
            self._actions = None
        self._rewards[:n], self._ends[:n] = state["rewards"], state["ends"]
        self._largest_earlier_reward = float(state["largest_earlier_reward"])
        self._samples.clear()
        for number, (step, index) in enumerate(state["samples"]):
            self._samples.append((step, index, _take(state["observations"], number)))


def _discount(rewards: NDArray[np.float32], ends: NDArray[np.uint8], gamma: float) -> SampledReturn:
    last = np.flatnonzero(ends)[:1]
    length = int(last[0]) + 1 if last.size else len(rewards)
    value = float(rewards[:length] @ gamma ** np.arange(length))
    is_terminated = last.size > 0 and ends[last[0]] == _TERMINATED
    return SampledReturn(value, 0.0 if is_terminated else gamma**length, last.size > 0)


def _get_action_dtype(space: gym.Space[Any]) -> np.dtype[Any]:
    if isinstance(space, gym.spaces.Discrete):
        limits = (int(space.start), int(space.start + space.n - 1))
        return np.result_type(*map(np.min_scalar_type, limits))
    return np.dtype(space.dtype)


def _count_values(component: int, actions: NDArray[Any]) -> Iterator[ActionCount]:
    values, counts = np.unique(actions[:, component], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield ActionCount(component, value, value, count)


def _count_ranges(component: int, actions: NDArray[np.float64], limits: tuple[float, float]) -> Iterator[ActionCount]:
    """Count actions between limits; rounding can take an action to just outside, and it counts at the end then."""
    low, high = limits
    counts, edges = np.histogram(actions.clip(low, high), _MAX_BINS, limits if low < high else (low - 0.5, high + 0.5))
    for left, right, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        yield ActionCount(component, left, right, count)


def _count_bytes(space: gym.Space[Any]) -> int:
    parts = [*space.spaces.values()] if isinstance(space, gym.spaces.Dict) else [space]
    return sum(int(np.prod(part.shape or ())) * np.dtype(part.dtype).itemsize for part in parts)


def _take(observations: Any, index: int) -> Any:
    """Return a copy of one observation of a batch."""
    if isinstance(observations, dict):
        return {key: values[index].copy() for key, values in observations.items()}
    return observations[index].copy()


def _stack(observations: list[Any]) -> Any:
    """Return observations as one batch."""
    if observations and isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.array(observations)
