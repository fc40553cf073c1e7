"""Layers around a Gymnasium ``VectorEnv``, inside and outside a config's wrappers.

Inside the toolkit, environments that step as one batch never reset by themselves: what ends returns its last
observation, and ``reset(options={"reset_mask": mask})`` starts new episodes. This is Gymnasium's
``AutoresetMode.DISABLED``. So a wrapper sees each step as that of a single environment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from toolkit.config.schema import RunConfig
from toolkit.envs.episode_numbers import REWARD_SUMS
from toolkit.envs.info_keywords import read_info_keywords
from toolkit.envs.observations import select_row
from toolkit.envs.replayable import check_return
from toolkit.utils.errors import FaultyEnvironmentError

if TYPE_CHECKING:
    from toolkit.envs.reward_trace import BatchRewardTrace

BatchStep = tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
RESET_MASK = "reset_mask"
_FINAL = ("final_obs", "final_info")
GYMNASIUM_FORMS = {  # they do to each row what the class of the same name does to an environment, and have no state
    getattr(wrappers, name): getattr(wrappers.vector, name)
    for name in (
        *("ClipReward", "ClipAction", "RescaleAction", "DtypeObservation", "FilterObservation"),
        *("FlattenObservation", "GrayscaleObservation", "RescaleObservation", "ReshapeObservation"),
        "ResizeObservation",
    )
}


class SameStepReset(VectorWrapper[Any, Any, Any, Any, Any]):
    """Hold back the resets of a batch that resets in the step that ends an episode (``AutoresetMode.SAME_STEP``).

    :raises FaultyEnvironmentError: if it gives no last observations where episodes end, or something outside ends
        others
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self._ended = np.zeros(env.num_envs, np.bool_)
        self._started: tuple[Any, dict[str, Any]] = (None, {})  # what the last resets returned

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or return the first observations of those that have been reset already."""
        if options is None or RESET_MASK not in options:
            return self.env.reset(seed=seed, options=options)
        if (options[RESET_MASK] & ~self._ended).any():
            name = type(self.env.unwrapped).__name__
            message = f"{name} resets by itself, so a wrapper cannot end its episodes"
            raise FaultyEnvironmentError(message, "use AutoresetMode.DISABLED in the class")
        return self._started

    def step(self, actions: Any) -> BatchStep:
        """Step all environments; return the last observation and info of an episode that ends."""
        observations, rewards, terminations, truncations, info = self.env.step(actions)
        self._ended = ended = np.asarray(terminations, np.bool_) | np.asarray(truncations, np.bool_)
        if ended.any():
            if "final_obs" not in info:
                name = type(self.env.unwrapped).__name__
                raise FaultyEnvironmentError(f"{name} gives no info['final_obs'] where an episode ends")
            of_starts = {key: values for key, values in info.items() if key.lstrip("_") not in _FINAL}
            self._started = observations, of_starts
            observations = _replace_rows(observations, info["final_obs"], ended)
            info = _merge_info(of_starts, info.get("final_info", {}), ended)
        return observations, rewards, terminations, truncations, info


class BatchMonitor(VectorWrapper[Any, Any, Any, Any, Any]):
    """Sum up the raw rewards of each environment, and keep each completed episode until :meth:`pop_episode`.

    :param config: names the info keywords
    :param trace: sums up the rewards that leave the wrappers outside
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], config: RunConfig, trace: BatchRewardTrace | None = None
    ) -> None:
        super().__init__(env)
        self._config = config
        self._trace = trace
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._start = time.time()
        self._completed: dict[int, dict[str, Any]] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of a mask, and keep the episodes that a mask cuts short."""
        if options is None or RESET_MASK not in options:
            self._returns[:], self._lengths[:] = 0.0, 0
            self._completed.clear()
            if self._trace is not None:
                self._trace.drop()
        else:
            if self._trace is not None:
                self._trace.end_episodes(options[RESET_MASK])
            for index in np.flatnonzero(options[RESET_MASK] & (self._lengths > 0)).tolist():
                self._complete_episode(index)
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> BatchStep:
        """Step all environments, and keep the episodes that end.

        :raises FaultyEnvironmentError: if there is not one reward for each environment
        """
        observations, rewards, *ends, info = self.env.step(actions)
        rewards = np.asarray(rewards)
        if rewards.shape != self._returns.shape:
            message = f"{type(self.env.unwrapped).__name__} returns rewards of shape {rewards.shape}"
            raise FaultyEnvironmentError(f"{message}, not {self._returns.shape}", "return one for each environment")
        terminations, truncations = (np.asarray(flags, np.bool_) for flags in ends)
        self._returns += rewards
        self._lengths += 1
        for index in np.flatnonzero(terminations | truncations).tolist():
            self._complete_episode(index)
            if self._config.env.info_keywords:
                self._completed[index] |= read_info_keywords(self._config, select_info(info, index))
        return observations, rewards, terminations, truncations, info

    def _complete_episode(self, index: int) -> None:
        """Keep an episode, added to one that ended before it without a reset."""
        before = self._completed.get(index, {"r": 0.0, "l": 0})
        self._completed[index] = {
            "r": before["r"] + check_return(float(self._returns[index])),
            "l": before["l"] + int(self._lengths[index]),
            "t": round(time.time() - self._start, 6),
        }
        self._returns[index], self._lengths[index] = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the running episodes."""
        return {"returns": self._returns.copy(), "lengths": self._lengths.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]

    def pop_episode(self, index: int) -> dict[str, Any] | None:
        """Return the episode that an environment has completed since the last call; None if it has not."""
        episode = self._completed.pop(index, None)
        if episode is not None and self._trace is not None:
            episode[REWARD_SUMS] = self._trace.pop(index)
        return episode


class SingleEnv(gym.Env[Any, Any]):
    """The environment of a batch of one, which never resets by itself, as a single environment.

    :ivar batch: the batch
    """

    def __init__(self, batch: VectorEnv[Any, Any, Any]) -> None:
        self.observation_space, self.action_space = batch.single_observation_space, batch.single_action_space
        self.metadata, self.render_mode, self.spec = batch.metadata, batch.render_mode, batch.spec
        self.batch = batch

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observations, info = self.batch.reset(seed=seed, options=options)
        return select_row(observations, 0), select_info(info, 0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment."""
        actions = np.array([action], self.action_space.dtype)
        observations, rewards, terminations, truncations, info = self.batch.step(actions)
        end = bool(terminations[0]), bool(truncations[0])
        return select_row(observations, 0), float(rewards[0]), *end, select_info(info, 0)

    def render(self) -> Any:
        """Return a frame."""
        frames = self.batch.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the batch."""
        self.batch.close()


def select_info(info: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the ``info`` of one environment: a batch has an array under each key, and a mask under ``_KEY``."""
    own: dict[str, Any] = {}
    for key, values in info.items():
        mask = info.get(f"_{key}")
        is_mask = key.startswith("_") and key[1:] in info
        if is_mask or (mask is not None and not mask[index]):
            continue
        if isinstance(values, dict):
            own[key] = select_info(values, index)
        elif isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim):
            own[key] = values[index]
    return own


def _merge_info(info: dict[str, Any], others: dict[str, Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the ``info`` of a batch, with some rows those of another."""
    merged: dict[str, Any] = {}
    for key in {*info, *others}:
        if key.startswith("_") and key[1:] in {*info, *others}:
            continue
        own, other = info.get(key), others.get(key)
        if isinstance(own, dict) or isinstance(other, dict):
            merged[key] = _merge_info(own or {}, other or {}, mask)
            continue
        rows = np.full(len(mask), None, object)
        for values, is_taken in ((own, ~mask), (other, mask)):
            if values is not None:
                for index in np.flatnonzero(is_taken):
                    rows[index] = values[index]
        merged[key] = rows
        merged[f"_{key}"] = np.where(mask, _get_info_mask(others, key, mask), _get_info_mask(info, key, mask))
    return merged


def _get_info_mask(info: dict[str, Any], key: str, like: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which environments have a key in the ``info`` of a batch: without a mask, all of them."""
    default = np.full(len(like), key in info)
    return np.asarray(info.get(f"_{key}", default), np.bool_)


def _replace_rows(observations: Any, others: Any, mask: NDArray[np.bool_]) -> Any:
    """Return observations in new arrays, with some rows those of others."""
    if isinstance(observations, dict):
        return {key: _replace_rows(rows, _get_part(others, key, mask), mask) for key, rows in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_replace_rows(rows, _get_part(others, key, mask), mask) for key, rows in enumerate(observations))
    replaced = observations.copy()
    if isinstance(others, np.ndarray) and others.dtype == object:
        replaced[mask] = np.stack([*others[mask]])
    else:
        replaced[mask] = others[mask]
    return replaced


def _get_part(others: Any, key: str | int, mask: NDArray[np.bool_]) -> Any:
    """Return one array of last observations: of a dict or tuple of them, or of an array of dicts or tuples."""
    if not isinstance(others, np.ndarray):
        return others[key]
    parts = np.empty(len(others), object)
    for index in np.flatnonzero(mask):
        parts[index] = others[index][key]
    return parts
