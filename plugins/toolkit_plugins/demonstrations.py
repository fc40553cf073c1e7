"""Demonstrations: transitions in a file, with which the replay buffer starts."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.her import HerReplayBuffer

from toolkit.training.callbacks import RunCallback
from toolkit.utils.errors import ConfigError, Problem
from toolkit.utils.vec_envs import iterate_vec_wrappers

_log = logging.getLogger("toolkit")

_NAMES = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
_WRITE = "write it with numpy.savez, with arrays of numbers alone"
_READ_ERRORS = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_N_COMPARED = 100
_Observations = NDArray[Any] | dict[str, NDArray[Any]]


class DemonstrationsCallback(RunCallback):
    """Fill the replay buffer with transitions from a file, before training starts.

    The file is an ``.npz``, as ``numpy.savez`` writes it. Each array has one row for each of N transitions, in the
    order in which they were made, as the agent would see them: behind all wrappers, before ``vec_normalize``.

    - ``observations``, ``next_observations``: (N, ...) in the observation space. For a ``Dict``, an array for each
      key: ``observations/goal``, ``next_observations/goal``.
    - ``actions``: (N, ...) in the action space.
    - ``rewards``: (N,)
    - ``terminated``, ``truncated``: (N,) true where the episode ended there, in the meaning of Gymnasium's ``step``.

    With several environments, each gets a stretch of the file, of the same length. The last ``N % n_envs`` transitions
    are left out.

    :param path: the file, relative to the config
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def check_model(self, model: BaseAlgorithm) -> None:
        """Check that the model has a replay buffer, and that the file's transitions fit it.

        :raises ConfigError: if not
        """
        buffer = _get_replay_buffer(model)
        transitions = _read_transitions(self.path, model, buffer)
        if isinstance(buffer, HerReplayBuffer):
            _warn_of_other_rewards(self.path, transitions, buffer)

    def _on_training_start(self) -> None:
        if self.context.is_resumed:  # the replay buffer of the snapshot has them
            return
        buffer = _get_replay_buffer(self.model)
        transitions = _read_transitions(self.path, self.model, buffer)
        transitions.fill(buffer)
        _log.info("%s: the replay buffer starts with %d transitions", self.path, buffer.size() * buffer.n_envs)

    def _on_step(self) -> bool:
        return True


@dataclass(frozen=True)
class _Transitions:
    """Transitions as a replay buffer stores them: of the spaces' types, actions scaled as the algorithm's.

    :param terminated: (N,) of bool, as ``truncated``
    """

    observations: _Observations
    actions: NDArray[Any]
    rewards: NDArray[Any]
    next_observations: _Observations
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def fill(self, buffer: ReplayBuffer) -> None:
        """Add the transitions to an empty buffer, a stretch of them for each of its environments."""
        n_steps = len(self.rewards) // buffer.n_envs
        steps = np.arange(n_steps * buffer.n_envs).reshape(buffer.n_envs, n_steps).T
        is_timeout = self.truncated & ~self.terminated
        is_timeout[steps[-1]] |= ~self.terminated[steps[-1]]  # another episode follows in the buffer
        is_end = self.terminated | is_timeout
        for rows in steps:
            infos = [{"TimeLimit.truncated": bool(value)} for value in is_timeout[rows]]
            observations, next_observations = (
                _take(part, rows) for part in (self.observations, self.next_observations)
            )
            buffer.add(observations, next_observations, self.actions[rows], self.rewards[rows], is_end[rows], infos)

    def find_gap(self) -> int | None:
        """Return the first transition whose episode goes on, but not with the next transition."""
        is_end = self.terminated[:-1] | self.truncated[:-1]
        pairs: list[tuple[Any, Any]] = [(self.observations, self.next_observations)]
        if isinstance(self.observations, dict) and isinstance(self.next_observations, dict):
            pairs = [(array, self.next_observations[key]) for key, array in self.observations.items()]
        is_next = np.ones(len(is_end), bool)
        for observations, next_observations in pairs:
            is_next &= (observations[1:] == next_observations[:-1]).all(axis=tuple(range(1, observations.ndim)))
        gaps = np.flatnonzero(~(is_end | is_next))
        return int(gaps[0]) if len(gaps) else None


def _take(observations: _Observations, rows: NDArray[Any]) -> Any:
    if isinstance(observations, dict):
        return {key: array[rows] for key, array in observations.items()}
    return observations[rows]


def _refuse(message: str, hint: str = "", *, is_about_file: bool = True) -> NoReturn:
    raise ConfigError([Problem(("params", "path") if is_about_file else (), message, hint)])


def _get_replay_buffer(model: BaseAlgorithm) -> ReplayBuffer:
    """Return the model's replay buffer.

    :raises ConfigError: if it has none, or one that cannot hold what is in a file
    """
    buffer = model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None
    if buffer is None:
        message = f"{type(model).__name__} has no replay buffer"
        _refuse(message, "choose an off-policy algorithm, such as double_dqn or sac", is_about_file=False)
    if buffer.optimize_memory_usage:
        message = "a replay buffer with optimize_memory_usage has no place for the last observation of a file"
        _refuse(message, "set algorithm.params.optimize_memory_usage to false", is_about_file=False)
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        message = f"a {type(buffer).__name__} with copy_info_dict needs infos, which a file does not have"
        _refuse(message, "set copy_info_dict to false", is_about_file=False)
    return buffer


def _read_transitions(path: str, model: BaseAlgorithm, buffer: ReplayBuffer) -> _Transitions:
    """Read a file of transitions.

    :raises ConfigError: if it cannot be read, or does not fit the model's spaces and its replay buffer
    """
    try:
        file = np.load(path, allow_pickle=False) if path.endswith(".npz") else None
        if not isinstance(file, NpzFile):
            _refuse(f"{path} is not an .npz", _WRITE)
        with file:
            return _Reader(path, file, model, buffer).read()
    except FileNotFoundError:
        _refuse(f"{path} does not exist", "correct the path, or write the file")
    except MemoryError:
        _refuse(f"{path} does not fit into memory", "write fewer transitions")
    except _READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or has objects"
        _refuse(f"{path} cannot be read: {reason}", _WRITE)


def _warn_of_other_rewards(path: str, transitions: _Transitions, buffer: HerReplayBuffer) -> None:
    """Warn if the environments compute another reward than the file has: hindsight mixes both in one minibatch."""
    observations: Any = transitions.observations
    next_observations: Any = transitions.next_observations
    goals = [next_observations["achieved_goal"][:_N_COMPARED], observations["desired_goal"][:_N_COMPARED]]
    env: Any = buffer.env
    (computed,) = env.env_method("compute_reward", *goals, [{}] * len(goals[0]), indices=[0])
    computed, rewards = np.ravel(computed), transitions.rewards[:_N_COMPARED]
    others = np.flatnonzero(~np.isclose(rewards, computed, rtol=1e-4, atol=1e-6))
    if len(others):
        index = others[0]
        message = "%s: rewards[%d] is %g, but compute_reward gives %g for it: one minibatch will have both"
        _log.warning(message, path, index, rewards[index], computed[index])


class _Reader:
    """Reads the arrays of an open file, and checks them against a model's spaces."""

    def __init__(self, path: str, file: Mapping[str, Any], model: BaseAlgorithm, buffer: ReplayBuffer) -> None:
        self._path = path
        self._file = file
        self._model = model
        self._buffer = buffer
        self._n = 0

    def read(self) -> _Transitions:
        transposer = _find_transposer(self._model)
        space: Any = transposer.venv.observation_space if transposer else self._model.observation_space
        self._check_names(space)
        rewards = self._read_numbers("rewards", None)
        self._check_size(rewards)
        observations, next_observations = (
            self._read_observations(name, space) for name in ("observations", "next_observations")
        )
        if transposer:
            observations, next_observations = map(transposer.transpose_observations, (observations, next_observations))
        actions = self._read_numbers("actions", self._model.action_space)
        if isinstance(self._model.action_space, spaces.Box):
            actions = self._model.policy.scale_action(actions)
        terminated, truncated = map(self._read_flags, ("terminated", "truncated"))
        transitions = _Transitions(observations, actions, rewards, next_observations, terminated, truncated)
        self._check_order(transitions)
        return transitions

    def _check_names(self, space: spaces.Space[Any]) -> None:
        expected = [*_NAMES]
        if isinstance(space, spaces.Dict):
            expected = [f"{name}/{key}" for name in ("observations", "next_observations") for key in space.spaces]
            expected += [name for name in _NAMES if "observations" not in name]
        if missing := [name for name in expected if name not in self._file]:
            found = f"it has {', '.join(self._file)}" if len(self._file) else "it is empty"
            _refuse(f"{self._path} has no array '{missing[0]}': {found}", f"name the arrays {', '.join(expected)}")

    def _check_size(self, rewards: NDArray[Any]) -> None:
        n_envs, self._n = self._buffer.n_envs, len(rewards)
        n_free = self._buffer.buffer_size - self._buffer.size()  # another file may have filled a part
        if self._n < n_envs:
            _refuse(f"{self._path} has {self._n} transitions, fewer than env.n_envs, {n_envs}", "write more")
        if self._n // n_envs > n_free:
            message = (
                f"{self._path} has {self._n:,} transitions, but the replay buffer has room for {n_free * n_envs:,}"
            )
            _refuse(message, "raise algorithm.params.buffer_size, or write fewer")

    def _check_order(self, transitions: _Transitions) -> None:
        if not isinstance(self._buffer, NStepReplayBuffer | HerReplayBuffer):
            return
        gap = transitions.find_gap()
        if gap is not None:
            message = (
                f"next_observations[{gap}] differs from observations[{gap + 1}], but no episode ends between them"
            )
            hint = f"keep episodes whole and in order: {type(self._buffer).__name__} follows them"
            _refuse(f"{self._path}: {message}", hint)

    def _read_observations(self, name: str, space: spaces.Space[Any]) -> _Observations:
        if isinstance(space, spaces.Dict):
            return {key: self._read_numbers(f"{name}/{key}", part) for key, part in space.spaces.items()}
        return self._read_numbers(name, space)

    def _read_flags(self, name: str) -> NDArray[np.bool_]:
        array = self._file[name]
        if array.shape != (self._n,):
            self._refuse_shape(name, array, (self._n,))
        if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
            _refuse(f"{self._path}: '{name}' should be true or false for each transition", "write an array of bool")
        return array.astype(bool)  # type: ignore[no-any-return]

    def _read_numbers(self, name: str, space: spaces.Space[Any] | None) -> NDArray[Any]:
        """Return an array in the type of its space; None is for rewards, which have a number each."""
        array = self._file[name]
        shape = array.shape[:1] or (1,) if space is None else (self._n, *(space.shape or ()))
        dtype = np.dtype(np.float32 if space is None else space.dtype)
        if array.shape != shape:
            self._refuse_shape(name, array, shape)
        if array.dtype.kind not in "biuf":
            _refuse(f"{self._path}: '{name}' has the type {array.dtype}, not numbers", _WRITE)
        if array.dtype.kind == "f" and dtype.kind != "f":
            message = f"{self._path}: '{name}' has the type {array.dtype}, but its space has {dtype}"
            _refuse(message, "write whole numbers")
        low, high = _get_bounds(space)
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        values = converted if dtype.kind == "f" else array  # integers beyond the type's range would wrap around
        is_outside = ~((values >= low) & (values <= high) & np.isfinite(values))
        if is_outside.any():
            index = tuple(map(int, np.argwhere(is_outside)[0]))
            place = f"{name}[{', '.join(map(str, index))}]"
            expected = "finite" if space is None else f"in {space}"
            _refuse(
                f"{self._path}: {place} is {array[index]}, which is not {expected}", "correct the file or the space"
            )
        return converted  # type: ignore[no-any-return]

    def _refuse_shape(self, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NoReturn:
        message = f"{self._path}: '{name}' has the shape {array.shape}, not {shape}"
        _refuse(message, "write a row for each transition, in the shape of the space")


def _find_transposer(model: BaseAlgorithm) -> VecTransposeImage | None:
    """Return what puts the channels of images first, which SB3 adds, unless a wrapper outside changes them further."""
    layers = iterate_vec_wrappers(model.get_env())
    layer = next((layer for layer in layers if layer.observation_space != layer.venv.observation_space), None)
    return layer if isinstance(layer, VecTransposeImage) else None


def _get_bounds(space: spaces.Space[Any] | None) -> tuple[Any, Any]:
    """Return the lowest and the highest value in a space: numbers, or arrays of its shape."""
    match space:
        case spaces.Box():
            return space.low, space.high
        case spaces.Discrete():
            return space.start, space.start + space.n - 1
        case spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            return 0, 1
    return -np.inf, np.inf
