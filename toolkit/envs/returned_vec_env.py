"""A vec env that a function of the config returns: its environments step together, and each has Monitor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from toolkit.config.schema import EnvConfig, RunConfig
from toolkit.config.values import has_per_env
from toolkit.envs.observations import select_row
from toolkit.envs.replayable import ReplayableEpisodes, iterate_layers
from toolkit.envs.spaces import sample_allowed
from toolkit.envs.vec_env import InProcessVecEnv
from toolkit.utils.errors import Problem

_log = logging.getLogger("toolkit")
_NEEDS_SINGLE = ("max_episode_steps", "reset_options", "vec_env", "step_timeout", "base_wrappers", "wrappers")
AddLayers = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


class MemberEnv(gym.Env[Any, Any]):
    """One environment of a vec env, which returns what the vec env's last step or reset brought for it."""

    metadata = {"render_modes": []}

    def __init__(self, venv: VecEnv, index: int) -> None:
        self.observation_space, self.action_space = venv.observation_space, venv.action_space
        self._index = index
        if _has_masks(venv):
            self.action_masks = lambda: venv.env_method("action_masks", indices=[index])[0]
        self._start: tuple[Any, dict[str, Any]] = (None, {})
        self._step: tuple[Any, float, bool, bool, dict[str, Any]] = (None, 0.0, False, False, {})

    def take_reset(self, observations: VecEnvObs, reset_infos: list[dict[str, Any]]) -> None:
        """Take what a reset of the vec env brought for this environment."""
        self._start = select_row(observations, self._index), dict(reset_infos[self._index])

    def take_step(self, result: VecEnvStepReturn, reset_infos: list[dict[str, Any]]) -> None:
        """Take what a step of the vec env brought for this environment, and the reset that may have followed."""
        observations, rewards, dones, infos = result
        info = dict(infos[self._index])
        last = observation = select_row(observations, self._index)
        is_truncated = bool(info.pop("TimeLimit.truncated", False))
        if is_done := bool(dones[self._index]):
            last = info.pop("terminal_observation", observation)
        self._start = observation, dict(reset_infos[self._index]) if is_done else {}
        self._step = last, float(rewards[self._index]), is_done and not is_truncated, is_done and is_truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return the present observation: the vec env has reset the environment already."""
        return self._start

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return what the vec env's last step brought."""
        return self._step

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: what the vec env has inside is not saved."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing."""


class FirstMember(MemberEnv):
    """The first environment of a vec env, for a trial: all others get the same actions, or random ones if masked."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv, 0)
        self._venv = venv

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the vec env."""
        self.take_reset(self._venv.reset(), _list_reset_infos(self._venv))
        return super().reset()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the vec env."""
        actions = [action] * self._venv.num_envs
        if hasattr(self, "action_masks"):
            masks = self._venv.env_method("action_masks")
            actions[1:] = [sample_allowed(self.action_space, mask) for mask in masks[1:]]
        self.take_step(self._venv.step(np.array(actions)), _list_reset_infos(self._venv))
        return super().step(action)

    def close(self) -> None:
        """Close the vec env."""
        self._venv.close()


class ReturnedVecEnv(InProcessVecEnv):
    """Drive a vec env that a function of the config returned.

    Its environments reset by themselves, so that only the first episodes follow from the seed, and no episode can be
    replayed: when a run is resumed, each environment starts a new one.

    :param add_layers: puts Monitor, and all that the toolkit needs, around one environment
    """

    def __init__(self, venv: VecEnv, add_layers: AddLayers) -> None:
        self._venv = venv
        self._members = [MemberEnv(venv, index) for index in range(venv.num_envs)]
        super().__init__([partial(add_layers, member) for member in self._members])

    def reset(self) -> VecEnvObs:
        """Reset all environments; the vec env takes the first one's seed and derives the others, as SB3's do."""
        if self._seeds[0] is not None:
            self._seed_members(self._seeds[0])
        observations = self._venv.reset()
        for member in self._members:
            member.take_reset(observations, _list_reset_infos(self._venv))
        return super().reset()

    def _seed_members(self, seed: int) -> None:
        try:
            self._venv.seed(seed)
        except AttributeError:  # SuperSuit's has nothing that takes it
            _log.warning("%s takes no seed: its episodes do not follow from the run's", type(self._venv).__name__)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments, unless they have just started episodes in place of those that ended with a resume."""
        if not any(layer.is_starting_anew for layer in self._iterate_replayable()):
            result = self._venv.step(self.actions)
            for member in self._members:
                member.take_step(result, _list_reset_infos(self._venv))
        return super().step_wait()

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of environments; none replays an episode."""
        if method_name != "replay":
            return super().env_method(method_name, *args, indices=indices, **kwargs)
        super().env_method("drop_episode", *args, indices=indices)
        text = "cannot repeat its episode (it belongs to a VecEnv): a new episode starts"
        return [text for _ in self._get_indices(indices)]

    def close(self) -> None:
        """Close the vec env."""
        super().close()
        self._venv.close()

    def _iterate_replayable(self) -> Iterator[ReplayableEpisodes]:
        for env in self.envs:
            yield from (layer for layer in iterate_layers(env) if isinstance(layer, ReplayableEpisodes))


def refuse_unfit_keys(config: RunConfig, venv: VecEnv, render_mode: str | None, scheduled: Iterable[str] = ()) -> None:
    """Refuse what needs environments one by one, for a config whose function returns a vec env.

    :param scheduled: the environment's parameters with a schedule
    :raises ConfigError: with every such key
    """
    env, text = config.env, f"'{config.env.name}' returns a VecEnv, whose environments step together"
    problems = [
        Problem(("env", key), f"cannot be set: {text}", "do it in the function")
        for key in _NEEDS_SINGLE
        if getattr(env, key) != EnvConfig.model_fields[key].default
    ]
    if has_per_env(env.params):
        problems.append(Problem(("env", "params"), f"cannot have per_env: {text}", "do it in the function"))
    problems += [Problem(("env", "params", name), f"cannot change between episodes: {text}") for name in scheduled]
    if env.n_envs not in (1, venv.num_envs):
        problems.append(Problem(("env", "n_envs"), f"cannot be {env.n_envs}: the VecEnv has {venv.num_envs}"))
    problems += [
        Problem(("callbacks", index), f"cannot make videos: {text}")
        for index, callback in enumerate(config.callbacks)
        if callback.name == "record_video"
    ]
    if render_mode is not None:
        problems.append(Problem(("env", "id"), f"cannot be rendered: {text}"))
    if problems:
        venv.close()
        raise config.make_error(problems)


def _has_masks(venv: VecEnv) -> bool:
    """Return whether the environments of a vec env say which actions are legal, as sb3-contrib asks for it."""
    try:
        return venv.has_attr("action_masks")
    except Exception:  # SB3's raise AttributeError, others anything
        return False


def _list_reset_infos(venv: VecEnv) -> list[dict[str, Any]]:
    """Return the infos of the last resets; a vec env that is not SB3's own may have none."""
    infos: list[dict[str, Any]] = getattr(venv, "reset_infos", None) or [{}] * venv.num_envs
    return infos
