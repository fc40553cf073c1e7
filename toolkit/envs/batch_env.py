"""Environments that step as one batch of arrays, Gymnasium's ``VectorEnv``, as an SB3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from toolkit.envs.batch_layers import (
    GYMNASIUM_FORMS,
    RESET_MASK,
    BatchMonitor,
    SameStepReset,
    select_info,
)
from toolkit.envs.observations import ObservationFormat, copy_arrays, select_row
from toolkit.envs.parameters import BatchParameters, Values
from toolkit.envs.replayable import DROPPED_EPISODE, RAW_EPISODE, iterate_layers
from toolkit.snapshots import capture, plain_data, restore
from toolkit.utils.seeds import derive_episode_seed


class BatchVecEnv(VecEnv):
    """Step a batch of environments, and reset those whose episode has ended.

    The batch has one random generator for all environments. Its state, and that of its wrappers, is restored from a
    snapshot instead of playing the episodes again.

    :param env: never resets by itself; see :mod:`toolkit.envs.batch_layers`
    :param monitor: the layer in it that knows the raw returns
    :param parameters: what may change between episodes
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], monitor: BatchMonitor, parameters: BatchParameters) -> None:
        self.env, self._monitor, self._parameters = env, monitor, parameters
        self._next_values: Values = {}
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._format = ObservationFormat(batch_space(env.single_observation_space, env.num_envs))
        stateless = tuple(GYMNASIUM_FORMS.values())
        self._layers = [layer for layer in iterate_layers(env) if not isinstance(layer, stateless)]
        self._start: list[capture.CapturedState] = []  # after the first reset
        self._seed = self._n_steps = 0
        self._last_rewards = np.zeros(env.num_envs, np.float32)
        self._last_observations: Any = None
        self._dropped: tuple[Any, NDArray[np.float32]] | None = None  # last observations and rewards

    def reset(self) -> VecEnvObs:
        """Reset all environments; the batch takes the first one's seed."""
        if self._seeds[0] is not None:
            self._seed = self._seeds[0]
        self._parameters.set(self._next_values)
        observations, info = self.env.reset(seed=self._seeds[0], options=None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [select_info(info, index) for index in range(self.num_envs)]
        if not self._start:
            states = self._capture()
            self._start = [captured._replace(state=plain_data.copy_data(captured.state)) for captured in states]
        self._dropped = None
        self._take_observations(observations)
        return self._copy_observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep a copy of the actions: an environment may change its own."""
        self._actions = np.array(actions, self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments."""
        if self._dropped is not None:
            return self._end_dropped_episodes(*self._dropped)
        observations, rewards, *flags, info = self.env.step(self._actions)
        terminations, truncations = (np.array(values, np.bool_) for values in flags)
        ended = terminations | truncations
        self._n_steps += 1
        self._take_observations(observations)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if info:
            infos = [select_info(info, index) for index in range(self.num_envs)]
        if ended.any():
            last, truncated = self._last_observations, truncations & ~terminations
            self._parameters.set(self._next_values, ended)
            observations, info = self.env.reset(options={RESET_MASK: ended})
            self._take_observations(observations)
            for index in np.flatnonzero(ended).tolist():
                infos[index]["terminal_observation"] = select_row(last, index)
                infos[index]["TimeLimit.truncated"] = bool(truncated[index])
                episode = self._monitor.pop_episode(index)
                self.reset_infos[index] = {**select_info(info, index), RAW_EPISODE: episode}
        self._last_rewards = np.array(rewards, np.float32)
        return self._copy_observations(), self._last_rewards.copy(), ended, infos

    def _take_observations(self, observations: Any) -> None:
        self._format.check(observations)
        self._last_observations = self._format.copy(observations)

    def _copy_observations(self) -> VecEnvObs:
        observations: VecEnvObs = copy_arrays(self._last_observations)
        return observations

    def _end_dropped_episodes(self, observations: Any, rewards: NDArray[np.float32]) -> VecEnvStepReturn:
        """End the episodes that a resumed run cannot continue, as by a time limit, with their last step once more."""
        self._dropped = None
        infos: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            infos.append({"terminal_observation": select_row(observations, index), "TimeLimit.truncated": True})
            self.reset_infos[index] = {RAW_EPISODE: None, DROPPED_EPISODE: True}
        return self._copy_observations(), rewards.copy(), np.ones(self.num_envs, np.bool_), infos

    def plan_parameters(self, values: Values) -> None:
        """Set the values that parameters have in the episodes that start next."""
        self._next_values = values

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch or a wrapper, once for each environment."""
        layer = next((layer for layer in iterate_layers(self.env) if hasattr(layer, attr_name)), self.env)
        return [getattr(layer, attr_name) for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Return whether the batch or a wrapper has an attribute, or whether :meth:`env_method` answers this name."""
        return attr_name in _ANSWERS or any(hasattr(layer, attr_name) for layer in iterate_layers(self.env))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the environments have their attributes in common.

        :raises NotImplementedError: always
        """
        raise NotImplementedError("environments that step as one batch have no attributes of their own")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether each environment has a wrapper; raw returns are known, as with Monitor."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Answer for each environment what snapshots and evaluations ask; the first one answers for all.

        :raises AttributeError: for any other method
        """
        indices = [*self._get_indices(indices)]
        if method_name not in _ANSWERS:
            name = type(self.env.unwrapped).__name__
            raise AttributeError(
                f"{name} steps all environments as one, so that no '{method_name}' of one can be called"
            )
        return [_ANSWERS[method_name](self, index, *args, **kwargs) for index in indices]

    def replay_state(self, index: int) -> dict[str, Any]:
        """Return, as plain data, the state of all layers; nothing for all environments but the first."""
        if index:
            return {}
        states = [[type(layer).__name__, captured.state] for layer, captured in self._iterate_captured()]
        return {
            "layers": states,
            "observations": capture.capture_value(self._last_observations),
            "rewards": self._last_rewards.copy(),
            "seed": self._seed,
            "n_steps": self._n_steps,
            "parameters": {path: capture.capture_value(rows) for path, rows in self._parameters.rows.items()},
            "unsaved": self.list_unrestorable(0),
        }

    def replay(self, index: int, state: dict[str, Any]) -> str:
        """Restore a :meth:`replay_state`; if it lacks something, new episodes start in all environments.

        :return: what differs, for the user; empty if nothing does
        :raises ValueError: if the state is not that of such a batch; also another of
            :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        if index:
            return ""
        if state["unsaved"]:
            self.drop_episode(0, state)
            return f"cannot continue its episodes ({', '.join(state['unsaved'])}): new episodes start"
        if not self._start:
            self.reset()
        for layer, (class_name, saved) in zip(self._layers, state["layers"], strict=True):
            restore.check_class(layer, class_name)
            restore.restore(layer, saved)
        rows = state.get("parameters", {}).items()  # earlier versions saved none
        self._parameters.set_rows({path: restore.restore_value(values) for path, values in rows})
        self._last_observations = restore.restore_value(state["observations"])
        self._last_rewards, self._seed, self._n_steps = state["rewards"], state["seed"], state["n_steps"]
        return ""

    def drop_episode(self, index: int, state: dict[str, Any]) -> None:
        """Start new episodes in all environments; the next step ends those of a :meth:`replay_state`.

        Their seed follows from the number of steps, so that they are not the first episodes of the run again.
        """
        if index:
            return
        seed, n_steps = state["seed"], state["n_steps"]
        self._seeds = [derive_episode_seed(seed, n_steps + 1)] * self.num_envs
        self.reset()
        self._seed, self._n_steps = seed, n_steps
        self._dropped = restore.restore_value(state["observations"]), state["rewards"]

    def list_unrestorable(self, index: int) -> list[str]:
        """Name what the layers hold that cannot be restored."""
        return [
            f"{type(layer).__name__}: {name}"
            for layer, captured in (() if index else self._iterate_captured())
            for name in captured.unsaved
        ]

    def capture_for_copies(self, index: int) -> dict[str, Any]:
        """Return, as plain data, what single environments take over: nothing, but the names of what they lack.

        That is what wrappers have counted or learned besides a value for each environment.
        """
        unsaved = [
            f"wrapper {type(layer).__name__}: {name}"
            for layer, captured, start in zip(self._layers, self._capture(), self._start, strict=False)
            if isinstance(layer, VectorWrapper) and not isinstance(layer, BatchMonitor | SameStepReset)
            for name in self._list_learned(layer, captured.state, start.state)
        ]
        return {"wrappers": [], "changed": [], "unsaved": unsaved}

    def _list_learned(self, layer: Any, state: dict[str, Any], start: dict[str, Any]) -> list[str]:
        """Name the attributes of a wrapper that have changed since the start and are the same for all environments."""
        if state["$"] != capture.ATTRIBUTES:
            return [] if plain_data.is_equal(state, start) else ["its state_dict"]
        return [
            name
            for name, data in state["state"].items()
            if not self._has_row_for_each_env(vars(layer)[name])
            and not (name in start["state"] and plain_data.is_equal(data, start["state"][name]))
        ]

    def _has_row_for_each_env(self, value: Any) -> bool:
        is_sequence = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)
        return is_sequence and len(value) == self.num_envs

    def _iterate_captured(self) -> Iterator[tuple[VectorEnv[Any, Any, Any], capture.CapturedState]]:
        return zip(self._layers, self._capture(), strict=True)

    def _capture(self) -> list[capture.CapturedState]:
        others = [self, *self._layers]
        return [
            capture.capture(layer, others, self._start[index].structure if self._start else None)
            for index, layer in enumerate(self._layers)
        ]


_ANSWERS: dict[str, Callable[..., Any]] = {
    "replay_state": BatchVecEnv.replay_state,
    "replay": BatchVecEnv.replay,
    "drop_episode": BatchVecEnv.drop_episode,
    "list_unrestorable": BatchVecEnv.list_unrestorable,
    "capture_for_copies": BatchVecEnv.capture_for_copies,
    "learned_states": lambda *_: [],
    "take_over": lambda *_: None,
    "take_statistics": lambda *_: [],
    "freeze_statistics": lambda *_: None,
    "watch_generators": lambda *_: None,
    "find_parameter_problem": lambda self, _, path: self._parameters.find_problem(path),
}
