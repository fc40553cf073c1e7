"""The arrays that an observation space describes: checked, copied and stacked."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from toolkit.utils.errors import FaultyEnvironmentError

_SPACES_OF_ONE_ARRAY = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_HINT = "correct it, or its wrappers"


class _Part(NamedTuple):
    """One array of an observation.

    :param key: where it is in a dict or tuple; None if the observation is the array
    """

    key: str | int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def get(self, observation: Any) -> Any:
        if self.key is None:
            return observation
        try:
            return observation[self.key]
        except (LookupError, TypeError):
            message = f"the environment returns an observation without {self.key!r}, which its space has"
            raise FaultyEnvironmentError(message, _HINT) from None


class ObservationFormat:
    """The shapes and types of an observation's arrays: one, or those of a Dict or Tuple space.

    A space that SB3 has no arrays for, such as a Dict in a Dict, is not checked.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        parts: dict[Any, gym.Space[Any]] = {None: space}
        if isinstance(space, spaces.Dict):
            parts = {**space.spaces}
        elif isinstance(space, spaces.Tuple):
            parts = dict(enumerate(space.spaces))
        self._is_tuple = isinstance(space, spaces.Tuple)
        self._parts: list[_Part] = []
        if all(isinstance(part, _SPACES_OF_ONE_ARRAY) for part in parts.values()):
            self._parts = [_Part(key, part.shape or (), np.dtype(part.dtype)) for key, part in parts.items()]
        self._shape, self._dtype = space.shape, space.dtype  # None unless it is one array

    def check(self, observation: Any) -> None:
        """Check one environment's observation. Only a number type that is not the space's costs a look at the values.

        :raises FaultyEnvironmentError: if an array is missing, has another shape, or numbers that the space's type
            cannot hold: fractions in integers, or integers beyond its range
        """
        if type(observation) is np.ndarray and observation.dtype is self._dtype and observation.shape == self._shape:
            return  # at nearly every step, so this costs as little as possible
        for part in self._parts:
            array = np.asarray(part.get(observation))
            if array.shape != part.shape or array.dtype != part.dtype:
                _check_difference(array, part)

    def copy(self, observation: Any) -> Any:
        """Return an observation in new arrays of the space's types; nothing else has them."""
        if not self._parts:
            return deepcopy(observation)
        arrays = {part.key: _copy_array(part, observation) for part in self._parts}
        if None in arrays:
            return arrays[None]
        return tuple(arrays.values()) if self._is_tuple else arrays

    def stack(self, observations: Sequence[Any]) -> VecEnvObs:
        """Return the observations of several environments in new arrays (n_envs, ...) of the space's types."""
        batches: dict[Any, NDArray[Any]] = {}
        for part in self._parts:
            batch = batches[part.key] = np.empty((len(observations), *part.shape), part.dtype)
            for index, observation in enumerate(observations):
                batch[index] = part.get(observation)
        if None in batches:
            return batches[None]
        return tuple(batches.values()) if self._is_tuple else batches


def copy_arrays(observation: Any) -> Any:
    """Return an observation in new arrays of its own types."""
    if type(observation) is np.ndarray:
        return observation.copy()
    if isinstance(observation, dict):
        return {key: copy_arrays(value) for key, value in observation.items()}
    return deepcopy(observation)


def select_row(observations: Any, index: int) -> Any:
    """Return the observation of one environment, from those of several in arrays (n_envs, ...)."""
    if isinstance(observations, dict):
        return {key: rows[index] for key, rows in observations.items()}
    if isinstance(observations, tuple):
        return tuple(rows[index] for rows in observations)
    return observations[index]


def _copy_array(part: _Part, observation: Any) -> Any:
    return np.array(part.get(observation), part.dtype).reshape(part.shape)[()]


def _check_difference(array: NDArray[Any], part: _Part) -> None:
    """Check an array whose shape or type is not that of the space."""
    name = "an observation" if part.key is None else f"an observation whose {part.key!r} is"
    is_one_number = array.size == 1 and part.shape == (1,)  # SB3 accepts it without its dimension
    if (array.shape != part.shape and not is_one_number) or array.dtype.kind not in "biuf":
        wrong = f"{name} of shape {array.shape} and type {array.dtype}, not {part.shape} and numbers"
        raise FaultyEnvironmentError(f"the environment returns {wrong}", _HINT)
    if part.dtype.kind == "f":
        return
    advice = f"return {part.dtype}, or give the space the type {array.dtype}, in the environment or its wrappers"
    if array.dtype.kind == "f":
        wrong = f"{name} of type {array.dtype}, but its space has {part.dtype}, which loses fractions"
        raise FaultyEnvironmentError(f"the environment returns {wrong}", advice)
    low, high = (0, 1) if part.dtype.kind == "b" else (np.iinfo(part.dtype).min, np.iinfo(part.dtype).max)
    if array.size and (array.min() < low or array.max() > high):
        wrong = f"{name} from {array.min()} to {array.max()}, but its space has {part.dtype}, from {low} to {high}"
        raise FaultyEnvironmentError(f"the environment returns {wrong}", advice)
