"""Value estimates where episodes start, beside the discounted rewards that followed: is the value overestimated?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from toolkit.utils.data import LARGEST_RETURN


class TracedEpisode(NamedTuple):
    """What was expected of an episode at its start, and what came.

    :param estimate: the value estimate of its first observation, when that was seen
    :param discounted_return: the discounted sum of its rewards, as the algorithm sees them
    :param discount_left: the discount of what would have come later; 0 if the environment terminated the episode
    """

    estimate: float
    discounted_return: float
    discount_left: float


class ValueTrace:
    """Follow an episode now and then, from the value estimate of its first observation to its end.

    The estimate is made where the episode starts, so both numbers are about the policy of that moment. All episodes
    count that are followed, whatever their length, so that long and short ones have their natural shares. States from
    the middle of episodes would count more often in those that fail early: a time limit hides what follows in others.
    It draws no random numbers. A step costs a few operations on single numbers for each episode that is followed.

    :param estimate_value: returns the value estimate of a batch of one observation; None if there is none
    :param gamma: the discount, 0 to 1
    :param interval: vector steps from one estimate to the next, at least 1
    """

    def __init__(
        self, estimate_value: Callable[[VecEnvObs], float | None], gamma: float, n_envs: int, interval: int
    ) -> None:
        self._estimate_value = estimate_value
        self._gamma = gamma
        self._n_envs = n_envs
        self._interval = interval
        self._wait = 0  # vector steps
        self._followed: dict[int, tuple[float, float, float]] = {}  # estimate, return and discount, by environment
        self._traced: list[TracedEpisode] = []

    def add(
        self, observations: VecEnvObs, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]
    ) -> None:
        """Add a vector step: the observations after it, the first ones of new episodes where the old ones are done."""
        for index, (estimate, earned, discount) in [*self._followed.items()]:
            self._followed[index] = estimate, earned + discount * float(rewards[index]), discount * self._gamma
            if dones[index]:
                self._end(index, bool(infos[index].get("TimeLimit.truncated")))
        if self._wait:
            self._wait -= 1
        elif dones.any():
            self._wait = self._interval - 1
            self._follow(observations, int(np.argmax(dones)))

    def _follow(self, observations: VecEnvObs, index: int) -> None:
        rows = slice(index, index + 1)
        if isinstance(observations, dict):
            estimate = self._estimate_value({key: part[rows] for key, part in observations.items()})
        else:
            estimate = self._estimate_value(observations[rows])
        if estimate is not None and _is_usable(estimate):
            self._followed[index] = estimate, 0.0, 1.0

    def _end(self, index: int, is_truncated: bool) -> None:
        estimate, discounted_return, discount = self._followed.pop(index)
        if _is_usable(discounted_return):
            self._traced.append(TracedEpisode(estimate, discounted_return, discount if is_truncated else 0.0))

    def drop(self, index: int) -> None:
        """Forget the running episode of an environment, because it is interrupted."""
        self._followed.pop(index, None)

    def drop_all(self) -> None:
        """Forget all running episodes, because a reset interrupts them."""
        self._followed.clear()

    def take(self) -> list[TracedEpisode]:
        """Return the episodes that have ended since the last call."""
        traced, self._traced = self._traced, []
        return traced

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data and arrays."""
        return {
            "wait": self._wait,
            "environments": [*self._followed],
            "followed": np.array([*self._followed.values()]).reshape(-1, 3),
            "traced": np.array(self._traced).reshape(-1, 3),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        :raises ValueError: if it is of another number of environments
        """
        self._wait = int(state["wait"])
        indices = [range(self._n_envs).index(index) for index in state["environments"]]
        followed = [_to_numbers(row) for row in state["followed"]]
        self._followed = dict(zip(indices, followed, strict=True))
        self._traced = [TracedEpisode(*_to_numbers(row)) for row in state["traced"]]


def _to_numbers(row: NDArray[Any]) -> tuple[float, float, float]:
    first, second, third = map(float, row)
    return first, second, third


def _is_usable(value: float) -> bool:
    """Return whether a mean can be taken over a value; infinity and NaN are not usable."""
    return abs(value) <= LARGEST_RETURN
