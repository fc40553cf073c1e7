"""Environments that step as one batch of arrays, Gymnasium's ``VectorEnv``, as an SB3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from toolkit.envs.batch_layers import GYMNASIUM_FORMS, RESET_MASK, BatchMonitor, select_info, select_row
from toolkit.envs.observations import copy_arrays
from toolkit.envs.replayable import DROPPED_EPISODE, RAW_EPISODE
from toolkit.snapshots import capture, restore


class BatchVecEnv(VecEnv):
    """Step a batch of environments, and reset those whose episode has ended.

    The batch has one random generator for all environments. Its state, and that of its wrappers, is restored from a
    snapshot instead of playing the episodes again.

    :param env: never resets by itself; see :mod:`toolkit.envs.batch_layers`
    :param monitor: the layer in it that knows the raw returns
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], monitor: BatchMonitor) -> None:
        self.env, self._monitor = env, monitor
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        stateless = tuple(GYMNASIUM_FORMS.values())
        self._layers = [layer for layer in _iterate_layers(env) if not isinstance(layer, stateless)]
        self._start: list[capture.Structure] | None = None
        self._last_rewards = np.zeros(env.num_envs, np.float32)
        self._last_observations: Any = None
        self._is_dropped = False

    def reset(self) -> VecEnvObs:
        """Reset all environments; the batch takes the first one's seed."""
        observations, info = self.env.reset(seed=self._seeds[0], options=None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [select_info(info, index) for index in range(self.num_envs)]
        if self._start is None:
            self._start = [captured.structure for captured in self._capture()]
        self._is_dropped = False
        self._last_observations = copy_arrays(observations)
        return self._copy_observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep a copy of the actions: an environment may change its own."""
        self._actions = np.array(actions, self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments."""
        if self._is_dropped:
            return self._end_dropped_episodes()
        observations, rewards, terminations, truncations, info = self.env.step(self._actions)
        ended = terminations | truncations
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if info:
            infos = [select_info(info, index) for index in range(self.num_envs)]
        if ended.any():
            last, truncated = copy_arrays(observations), truncations & ~terminations
            observations, info = self.env.reset(options={RESET_MASK: ended})
            for index in np.flatnonzero(ended).tolist():
                infos[index]["terminal_observation"] = select_row(last, index)
                infos[index]["TimeLimit.truncated"] = bool(truncated[index])
                episode = self._monitor.pop_episode(index)
                self.reset_infos[index] = {**select_info(info, index), RAW_EPISODE: episode}
        self._last_rewards = np.array(rewards, np.float32)
        self._last_observations = copy_arrays(observations)
        return self._copy_observations(), self._last_rewards.copy(), ended.copy(), infos

    def _copy_observations(self) -> VecEnvObs:
        observations: VecEnvObs = copy_arrays(self._last_observations)
        return observations

    def _end_dropped_episodes(self) -> VecEnvStepReturn:
        """End the episodes that a resumed run cannot continue, as by a time limit, with their last step once more."""
        self._is_dropped = False
        infos: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            last = select_row(self._dropped_observations, index)
            infos.append({"terminal_observation": last, "TimeLimit.truncated": True})
            self.reset_infos[index] = {RAW_EPISODE: None, DROPPED_EPISODE: True}
        rewards, ended = self._dropped_rewards.copy(), np.ones(self.num_envs, np.bool_)
        return self._copy_observations(), rewards, ended, infos

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, once for each environment."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Return whether the batch has an attribute, or answers a method of this name."""
        return attr_name in _ANSWERS or hasattr(self.env, attr_name)

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
        last = [capture.capture_value(self._last_observations), self._last_rewards.copy()]
        return {"layers": states, "last": last, "unsaved": self.list_unrestorable(0)}

    def replay(self, index: int, state: dict[str, Any]) -> str:
        """Restore a :meth:`replay_state`; if it lacks something, new episodes start in all environments.

        :return: what differs, for the user; empty if nothing does
        :raises ValueError: if the state is not that of such a batch; also another of
            :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        if index:
            return ""
        if self._start is None:
            self.reset()
        if state["unsaved"]:
            self.drop_episode(0, state)
            return f"cannot continue its episodes ({', '.join(state['unsaved'])}): new episodes start"
        for layer, (class_name, saved) in zip(self._layers, state["layers"], strict=True):
            restore.check_class(layer, class_name)
            restore.restore(layer, saved)
        self._last_observations, self._last_rewards = restore.restore_value(state["last"][0]), state["last"][1]
        return ""

    def drop_episode(self, index: int, state: dict[str, Any]) -> None:
        """Start new episodes in all environments; the next step ends those of a :meth:`replay_state`."""
        if index:
            return
        self.reset()
        self._dropped_observations = restore.restore_value(state["last"][0])
        self._dropped_rewards = state["last"][1]
        self._is_dropped = True

    def list_unrestorable(self, index: int) -> list[str]:
        """Name what the layers hold that cannot be restored."""
        return [
            f"{type(layer).__name__}: {name}"
            for layer, captured in (() if index else self._iterate_captured())
            for name in captured.unsaved
        ]

    def _iterate_captured(self) -> Iterator[tuple[VectorEnv[Any, Any, Any], capture.CapturedState]]:
        return zip(self._layers, self._capture(), strict=True)

    def _capture(self) -> list[capture.CapturedState]:
        others = [self, *self._layers]
        return [
            capture.capture(layer, others, self._start[index] if self._start else None)
            for index, layer in enumerate(self._layers)
        ]


_ANSWERS: dict[str, Callable[..., Any]] = {
    "replay_state": BatchVecEnv.replay_state,
    "replay": BatchVecEnv.replay,
    "drop_episode": BatchVecEnv.drop_episode,
    "list_unrestorable": BatchVecEnv.list_unrestorable,
    # wrappers of a batch learn nothing that a copy of the environment would need, and it has its own generator
    "learned_states": lambda *_: [],
    "capture_for_copies": lambda *_: {"wrappers": [], "changed": [], "unsaved": []},
    "take_over": lambda *_: None,
    "freeze_statistics": lambda *_: None,
    "watch_generators": lambda *_: None,
}


def _iterate_layers(env: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """Yield a batch's wrappers, outermost first, and the batch inside them."""
    yield env
    while isinstance(env, VectorWrapper):
        env = env.env
        yield env
