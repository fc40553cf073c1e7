"""Prioritized replay: transitions are drawn the more often, the more the network still has to learn from them.

Paper: Schaul, Quan, Antonoglou and Silver, "Prioritized Experience Replay" (2016), https://arxiv.org/abs/1511.05952,
its proportional variant.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer

from toolkit.algorithms.ranges import ABOVE_ZERO, AT_LEAST_ONE, FROM_ZERO_TO_ONE, Range, check_ranges
from toolkit.algorithms.replay import Rows, gather_transitions, get_arrays
from toolkit.algorithms.targets import WeightedMinibatch

_CHILDREN = 32  # of a sum; a level costs more than its arithmetic, so that few levels with many children are fastest
_BITS = _CHILDREN.bit_length() - 1
_MAX_TOP = 1024  # sums that one cumulative sum goes through
_BELOW_ONE = 1 - 2.0**-52


class SumTree:
    """Numbers of rows, with the sums of 32 of them each, the sums of 32 sums, and so on, to find rows by shares.

    Sums are added up anew from what they are of, so that no errors accumulate: equal numbers have equal sums.

    >>> tree = SumTree(4)
    >>> tree.set(np.array([0, 1, 3]), np.array([1.0, 2.0, 5.0]))
    >>> tree.find(np.array([0.1, 0.2, 0.9])).tolist()
    [0, 1, 3]

    :param n_rows: how many numbers there are; all are 0 at first
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        n_blocks = -(-n_rows // _CHILDREN)
        levels = [np.zeros(n_blocks * _CHILDREN)]
        while n_blocks > _MAX_TOP:
            n_blocks = -(-n_blocks // _CHILDREN)
            levels.append(np.zeros(n_blocks * _CHILDREN))
        self._levels = [*levels, np.zeros(n_blocks)]
        self._blocks = [level.reshape(-1, _CHILDREN) for level in levels]

    def __len__(self) -> int:
        return self._n_rows

    def __getstate__(self) -> NDArray[np.float64]:
        return self.values

    def __setstate__(self, values: NDArray[np.float64]) -> None:
        self.__init__(len(values))  # type: ignore[misc]
        self.fill(values)

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers (rows,), in the memory of the tree."""
        return self._levels[0][: self._n_rows]

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._levels[-1].sum())

    def fill(self, values: NDArray[np.float64]) -> None:
        """Replace the numbers of the first rows."""
        self._levels[0][: len(values)] = values
        for blocks, sums in zip(self._blocks, self._levels[1:], strict=True):
            sums[: len(blocks)] = blocks.sum(axis=1)

    def set(self, rows: Rows, values: NDArray[np.float64] | float) -> None:
        """Replace the numbers of rows; of a row that comes twice, the last one counts."""
        self._levels[0][rows] = values
        for blocks, sums in zip(self._blocks, self._levels[1:], strict=True):
            rows = rows >> _BITS
            sums[rows] = blocks.take(rows, axis=0).sum(axis=1)

    def find(self, shares: NDArray[np.float64]) -> Rows:
        """Return the rows at which the cumulative sum of the numbers passes shares of the total.

        All shares descend a level at once. A row whose number is 0 is never found.

        :param shares: (batch,), from 0 to 1
        """
        top = self._levels[-1]
        sums = top.cumsum()
        rest = np.minimum(shares, _BELOW_ONE) * sums[-1]
        rows: Rows = sums.searchsorted(np.minimum(rest, sums[-1] * _BELOW_ONE), side="right")
        rest -= sums[rows] - top[rows]
        starts = np.arange(0, len(shares) * _CHILDREN, _CHILDREN)
        for blocks in reversed(self._blocks):
            children = blocks.take(rows, axis=0)
            sums = children.cumsum(axis=1)
            # rounding may lead out of a block, or to a child that is 0
            rest = np.minimum(np.maximum(rest, 0), sums[:, -1] * _BELOW_ONE)
            indices = (sums <= rest[:, None]).sum(axis=1)
            places = starts + indices
            rest -= sums.ravel()[places] - children.ravel()[places]
            rows = rows * _CHILDREN + indices
        return rows


_RANGES: dict[str, Range] = {
    **dict.fromkeys(("alpha", "beta", "final_beta"), FROM_ZERO_TO_ONE),
    "epsilon": ABOVE_ZERO,
    "n_steps": AT_LEAST_ONE,
}


class PrioritizedReplayBuffer(ReplayBuffer):
    """A replay buffer that draws a transition with a probability that follows the network's error for it.

    With the error ``delta_i`` of transition i when it was last drawn, and N stored transitions::

        p_i  = |delta_i| + epsilon                  priority; the highest so far for a new transition
        P(i) = p_i^alpha / sum_k p_k^alpha          probability (equation 1)
        w_i  = (N P(i))^-beta / max_j (N P(j))^-beta   importance weight in the loss; j goes over the minibatch

    The weights undo the bias of the probabilities, fully with ``beta`` 1. Paper: Schaul et al., "Prioritized
    Experience Replay" (2016), https://arxiv.org/abs/1511.05952, section 3.

    :class:`toolkit.algorithms.DoubleDQN` draws minibatches and returns the errors. It passes its own ``n_steps`` and
    ``gamma``, and takes :class:`PrioritizedDictReplayBuffer` for Dict observations.

    >>> from toolkit.algorithms import DoubleDQN
    >>> params = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"alpha": 0.5}}
    >>> model = DoubleDQN("MlpPolicy", "CartPole-v1", n_steps=3, learning_starts=50, seed=0, **params).learn(200)
    >>> batch, rows = model.replay_buffer.sample_weighted(4)
    >>> batch.weights.shape, rows.shape
    (torch.Size([4]), (4,))

    :param buffer_size: transitions over all environments
    :param optimize_memory_usage: not supported
    :param handle_timeout_termination: whether a time limit leaves an episode's end open for the targets
    :param alpha: how much the errors count, 0 to 1; 0 draws all transitions alike
    :param beta: exponent of the weights at the start of training, 0 to 1
    :param final_beta: exponent at the end, 0 to 1; it changes linearly with the progress of training. Give the value
        of ``beta`` for a constant
    :param epsilon: priority of a transition without an error, above 0
    :param n_steps: steps in an n-step return, at least 1
    :param gamma: discount factor of n-step returns
    :raises ValueError: if a parameter is out of range or not supported
    """

    def __init__(  # noqa: PLR0913 - SB3's parameters in SB3's order, then our own by keyword
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        alpha: float = 0.6,
        beta: float = 0.4,
        final_beta: float = 1.0,
        epsilon: float = 1e-6,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        name = type(self).__name__
        if optimize_memory_usage:
            raise ValueError(f"{name} does not support optimize_memory_usage: leave it out")
        if isinstance(self, HerReplayBuffer):
            raise ValueError(f"{name} cannot relabel goals, because HerReplayBuffer draws transitions itself")
        values = {"alpha": alpha, "beta": beta, "final_beta": final_beta, "epsilon": epsilon, "n_steps": n_steps}
        check_ranges(values, _RANGES, name)
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.alpha, self.beta, self.final_beta, self.epsilon = alpha, beta, final_beta, epsilon
        self.n_steps, self.gamma = n_steps, gamma
        self.max_priority = 1.0
        self._tree = SumTree(self.buffer_size * self.n_envs)

    @property
    def priorities(self) -> NDArray[np.float64]:
        """``p^alpha`` of the stored transitions: (vector steps, environments), 0 where nothing is stored yet."""
        return self._tree.values.reshape(self.buffer_size, self.n_envs)

    def add(self, *transition: Any, **named: Any) -> None:
        """Store one transition of each environment, with the highest priority so far."""
        start = self.pos * self.n_envs
        super().add(*transition, **named)
        self._tree.set(np.arange(start, start + self.n_envs), self.max_priority**self.alpha)

    def reset(self) -> None:
        """Forget all transitions and priorities."""
        super().reset()
        self.max_priority = 1.0
        self._tree = SumTree(self.buffer_size * self.n_envs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Refuse to sample as SB3's algorithms do, because they would leave out weights and priorities.

        :raises TypeError: always
        """
        raise TypeError(
            f"{type(self).__name__} gives transitions with weights, and takes priorities back. SB3's own algorithms "
            "support neither: use toolkit.algorithms.DoubleDQN, or call sample_weighted and update_priorities"
        )

    def sample_weighted(
        self, batch_size: int, progress_remaining: float = 1.0, env: VecNormalize | None = None
    ) -> tuple[WeightedMinibatch, Rows]:
        """Draw transitions by their priorities.

        As in the paper, the priorities' sum is cut in ``batch_size`` equal ranges, and one transition drawn from each.

        :param progress_remaining: SB3's remaining progress, from 1 to 0; beta goes to ``final_beta`` with it
        :param env: normalizes observations and rewards
        :return: the minibatch, and the rows of its transitions for :meth:`update_priorities`
        :raises ValueError: if nothing is stored
        """
        if not self.size():
            raise ValueError("the replay buffer is empty")
        rows = self._tree.find((np.arange(batch_size) + np.random.random_sample(batch_size)) / batch_size)
        priorities = self._tree.values[rows]
        beta = self.final_beta + (self.beta - self.final_beta) * progress_remaining
        # (N P(i))^-beta, divided by its maximum: N and the priorities' sum cancel out
        weights = ((priorities.min() / priorities) ** beta).astype(np.float32)
        flat = [*map(_flatten_steps, get_arrays(self))]
        transitions = gather_transitions(self, flat, rows, env)
        return WeightedMinibatch(*transitions, weights=th.from_numpy(weights).to(self.device)), rows

    def update_priorities(self, rows: Rows, errors: NDArray[Any]) -> None:
        """Give transitions the priorities of their errors.

        :param rows: (batch,), of :meth:`sample_weighted`
        :param errors: (batch,), absolute
        :raises ValueError: if an error is not finite
        """
        priorities = errors.astype(np.float64) + self.epsilon
        largest = float(priorities.max())
        if not np.isfinite(largest):
            raise ValueError(f"an error of {largest} cannot be a priority: training has diverged")
        self.max_priority = max(self.max_priority, largest)
        self._tree.set(rows, priorities**self.alpha)

    def state_dict(self) -> dict[str, Any]:
        """Return what a snapshot needs besides the transitions."""
        return {"priorities": self._tree.values[: self.size() * self.n_envs], "max_priority": self.max_priority}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`, once the transitions are restored.

        :raises ValueError: if it does not fit the stored transitions
        """
        priorities, max_priority = state["priorities"], float(state["max_priority"])
        is_array = isinstance(priorities, np.ndarray) and priorities.dtype == np.float64
        if not is_array or priorities.shape != (self.size() * self.n_envs,):
            raise ValueError("its priorities are not one number for each transition")
        if not (np.isfinite(priorities).all() and (priorities > 0).all() and 0 < max_priority < np.inf):
            raise ValueError("its priorities are not all above 0")
        self._tree.fill(priorities)
        self.max_priority = max_priority


class PrioritizedDictReplayBuffer(PrioritizedReplayBuffer, DictReplayBuffer):
    """A :class:`PrioritizedReplayBuffer` for Dict observations, also with n-step returns."""


def _flatten_steps(array: Any) -> Any:
    """Return an array (vector steps, environments, ...) as (rows, ...), or a mapping of such arrays."""
    if isinstance(array, dict):
        return {key: _flatten_steps(part) for key, part in array.items()}
    return array.reshape(-1, *array.shape[2:])
