"""Demonstrations: transitions in a file, with which the replay buffer starts."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
from gymnasium import spaces
from numpy.lib import format as npy_format
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

_SCALARS = ("rewards", "terminated", "truncated")
_WRITE = "write it with numpy.savez, with arrays of numbers alone"
_TERMINAL_END = (
    "the last transition that an environment gets is in the middle of an episode, and counts as terminal without "
    "handle_timeout_termination"
)
_READ_ERRORS = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_N_COMPARED = 100
_HEADER_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
_FOLLOWS_EPISODES = (NStepReplayBuffer, HerReplayBuffer)
_checked_steps: WeakKeyDictionary[ReplayBuffer, WeakKeyDictionary[RunCallback, int]] = WeakKeyDictionary()
"""For each replay buffer, the steps that each callback will add, once it is checked."""
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
        others = _checked_steps.setdefault(buffer, WeakKeyDictionary())
        others.pop(self, None)
        transitions = _read_transitions(self.path, model, buffer, sum(others.values()))
        others[self] = transitions.count_steps(buffer)
        if isinstance(buffer, HerReplayBuffer):
            _warn_of_other_rewards(self.path, transitions, buffer)
        if transitions.find_ends_of_stretches(buffer).any() and not buffer.handle_timeout_termination:
            _log.warning("%s: %s", self.path, _TERMINAL_END)

    def _on_training_start(self) -> None:
        if self.context.is_resumed:  # the replay buffer of the snapshot has them
            return
        buffer = _get_replay_buffer(self.model)
        transitions = _read_transitions(self.path, self.model, buffer, buffer.size())
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

    def count_steps(self, buffer: ReplayBuffer) -> int:
        """Return the length of the stretch that each of a buffer's environments gets."""
        return len(self.rewards) // buffer.n_envs

    def fill(self, buffer: ReplayBuffer) -> None:
        """Add the transitions to a buffer, a stretch of them for each of its environments."""
        is_timeout = self.truncated & ~self.terminated | self.find_ends_of_stretches(buffer)
        is_end = self.terminated | is_timeout
        for rows in self._list_rows(buffer):
            infos = [{"TimeLimit.truncated": bool(value)} for value in is_timeout[rows]]
            observations, next_observations = (
                _take(part, rows) for part in (self.observations, self.next_observations)
            )
            buffer.add(observations, next_observations, self.actions[rows], self.rewards[rows], is_end[rows], infos)

    def find_ends_of_stretches(self, buffer: ReplayBuffer) -> NDArray[np.bool_]:
        """Return, for each transition, whether its stretch ends there in the middle of an episode.

        What a buffer gets next belongs to another episode. A buffer to which every end is terminal has to know it only
        if it follows episodes.
        """
        is_end = np.zeros(len(self.rewards), bool)
        if buffer.handle_timeout_termination or isinstance(buffer, _FOLLOWS_EPISODES):
            is_end[self._list_rows(buffer)[-1]] = True
        return is_end & ~(self.terminated | self.truncated)

    def _list_rows(self, buffer: ReplayBuffer) -> NDArray[np.int_]:
        """Return the transitions that are added together, one of each environment: (steps, n_envs)."""
        n_steps = self.count_steps(buffer)
        return np.arange(n_steps * buffer.n_envs).reshape(buffer.n_envs, n_steps).T

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


def _read_transitions(path: str, model: BaseAlgorithm, buffer: ReplayBuffer, n_used_steps: int) -> _Transitions:
    """Read a file of transitions.

    :param n_used_steps: steps of the buffer that other files fill
    :raises ConfigError: if it cannot be read, or does not fit the model's spaces and its replay buffer
    """
    try:
        file = np.load(path, allow_pickle=False) if path.endswith(".npz") else None
        if not isinstance(file, NpzFile):
            _refuse(f"{path or 'an empty path'} is not an .npz", _WRITE)
        with file:
            return _Reader(path, file, model, buffer, n_used_steps).read()
    except FileNotFoundError:
        hint = "correct the path, or write the file before training"
        _refuse(f"{path} does not exist", "write the home directory for ~" if "~" in Path(path).parts else hint)
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
    """Reads the arrays of an open file, and checks them against a model's spaces.

    Types and shapes of all arrays are checked before one is unpacked: it may be far larger than its file.
    """

    def __init__(
        self, path: str, file: NpzFile, model: BaseAlgorithm, buffer: ReplayBuffer, n_used_steps: int
    ) -> None:
        self._path = path
        self._file = file
        self._model = model
        self._buffer = buffer
        self._n_used_steps = n_used_steps
        self._n = 0

    def read(self) -> _Transitions:
        transposer = _find_transposer(self._model)
        space: Any = transposer.venv.observation_space if transposer else self._model.observation_space
        arrays = self._list_arrays(space)
        self._check_names(arrays)
        self._check_size()
        for name, part in arrays.items():
            self._check_header(name, part)
        rewards = self._read_numbers("rewards", None)
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

    def _list_arrays(self, space: spaces.Space[Any]) -> dict[str, spaces.Space[Any] | None]:
        """Return the arrays that the file must have, with their spaces; None is for one number a transition."""
        parts = {"": space}
        if isinstance(space, spaces.Dict):
            parts = {f"/{key}": part for key, part in space.spaces.items()}
        names = ("observations", "next_observations")
        arrays = {f"{name}{key}": part for name in names for key, part in parts.items()}
        return {**arrays, "actions": self._model.action_space, **dict.fromkeys(_SCALARS)}

    def _check_names(self, expected: Collection[str]) -> None:
        if missing := [name for name in expected if name not in self._file]:
            found = f"it has {', '.join(self._file)}" if len(self._file) else "it is empty"
            _refuse(f"{self._path} has no array '{missing[0]}': {found}", f"name the arrays {', '.join(expected)}")

    def _read_header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the type of an array."""
        archive: Any = self._file.zip
        with archive.open(name if name in archive.namelist() else f"{name}.npy") as file:
            version = npy_format.read_magic(file)
            if version not in _HEADER_READERS:  # only of arrays with named fields
                raise ValueError("unknown version of an array")
            shape, _, dtype = _HEADER_READERS[version](file)
            return shape, dtype

    def _check_size(self) -> None:
        shape, _ = self._read_header("rewards")
        if len(shape) != 1:
            self._refuse_shape("rewards", shape, f"({', '.join(map(str, shape[:1])) or 'N'},)")
        n_envs, (self._n,) = self._buffer.n_envs, shape
        n_free = self._buffer.buffer_size - self._n_used_steps
        if self._n < n_envs:
            _refuse(f"{self._path} has {self._n} transitions, fewer than env.n_envs, {n_envs}", "write more")
        if self._n // n_envs > n_free:
            others = " beside those of other files" if self._n_used_steps else ""
            message = (
                f"{self._path} has {self._n:,} transitions, but the replay buffer has room for {n_free * n_envs:,}"
            )
            _refuse(message + others, "raise algorithm.params.buffer_size, or write fewer")

    def _check_header(self, name: str, space: spaces.Space[Any] | None) -> None:
        shape, dtype = self._read_header(name)
        expected = (self._n,) if space is None else (self._n, *(space.shape or ()))
        if dtype.hasobject:
            _refuse(f"{self._path}: '{name}' has objects", _WRITE)
        if shape != expected:
            self._refuse_shape(name, shape, str(expected))
        if dtype.kind not in "biuf":
            _refuse(f"{self._path}: '{name}' has the type {dtype}, not numbers", _WRITE)
        if space is not None and dtype.kind == "f" and np.dtype(space.dtype).kind != "f":
            message = f"{self._path}: '{name}' has the type {dtype}, but its space has {space.dtype}"
            _refuse(message, "write whole numbers")

    def _check_order(self, transitions: _Transitions) -> None:
        if not isinstance(self._buffer, _FOLLOWS_EPISODES):
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
        if not np.isin(array, (0, 1)).all():
            _refuse(f"{self._path}: '{name}' should be true or false for each transition", "write an array of bool")
        return array.astype(bool)

    def _read_numbers(self, name: str, space: spaces.Space[Any] | None) -> NDArray[Any]:
        """Return an array in the type of its space; None is for rewards, which have a number each."""
        array = self._file[name]
        dtype = np.dtype(np.float32 if space is None else space.dtype)
        low, high = _get_bounds(space)
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        values = converted if dtype.kind == "f" else array  # integers beyond the type's range would wrap around
        is_outside = ~((values >= low) & (values <= high) & np.isfinite(values))
        if is_outside.any():
            index = tuple(map(int, np.argwhere(is_outside)[0]))
            message = f"{self._path}: {name}[{', '.join(map(str, index))}] is {array[index]}, which is not"
            if space is None:
                _refuse(f"{message} finite", "correct the file")
            _refuse(f"{message} in {space}", "correct the file or the space")
        return converted

    def _refuse_shape(self, name: str, shape: tuple[int, ...], expected: str) -> NoReturn:
        row = "a number" if name in _SCALARS else "a row, in the shape of the space,"
        _refuse(f"{self._path}: '{name}' has the shape {shape}, not {expected}", f"write {row} for each transition")


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
