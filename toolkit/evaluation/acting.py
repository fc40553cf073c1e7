"""Act with a run's model one step at a time: its environment without vec wrappers, and actions for observations of it.

The vec wrappers of the config are part of the way from an observation to the policy. They are kept with what they
learned in training, around an environment that returns the observations given.
"""

from __future__ import annotations

import inspect
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episodes import EpisodeRecorder
from toolkit.envs.factory import make_vec_env
from toolkit.envs.observations import ObservationFormat
from toolkit.envs.replayable import RAW_EPISODE, RawMonitor, iterate_layers
from toolkit.envs.returned_vec_env import ReturnedVecEnv
from toolkit.envs.spaces import count_masks
from toolkit.envs.vec_env import InProcessVecEnv
from toolkit.envs.wrapper_state import capture_wrapper_states, list_vec_wrappers, load_wrapper_states
from toolkit.snapshots.rng import preserve_rng_state
from toolkit.training.model import limit_torch_threads
from toolkit.utils.errors import FaultyEnvironmentError, RunError, ToolkitError


class RawRewardEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment with all wrappers of a config, whose rewards are those inside the wrappers.

    :param env: has a :class:`toolkit.envs.replayable.RawMonitor` inside
    :param seed: of the first reset without a seed; later episodes follow from it
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._monitor = next(layer for layer in iterate_layers(env) if isinstance(layer, RawMonitor))
        self._first_seed: int | None = seed
        if env.has_wrapper_attr("action_masks"):
            self.action_masks = env.get_wrapper_attr("action_masks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; a seed starts another sequence of episodes."""
        seed, self._first_seed = self._first_seed if seed is None else seed, None
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {key: value for key, value in info.items() if key != RAW_EPISODE}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and return the sum of its own rewards: a wrapper may take several steps."""
        rewards = self._monitor.rewards
        n_rewards = len(rewards)
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = sum(rewards[n_rewards:])
        if self._monitor.rewards is not rewards:  # a wrapper has reset the environment
            reward += sum(self._monitor.rewards)
        return observation, float(reward), terminated, truncated, info


def make_raw_env(config: ResolvedConfig, model: BaseAlgorithm, seed: int, render_mode: str | None) -> RawRewardEnv:
    """Build one environment of a config with its wrappers, which have what those of the model learned.

    :raises ConfigError: if it cannot be built
    :raises RunError: if a function of the config returns environments that step together
    """
    _, env = _make_venv(config, model, seed, render_mode)
    return RawRewardEnv(env, seed)


def _make_venv(
    config: ResolvedConfig, model: BaseAlgorithm, seed: int, render_mode: str | None
) -> tuple[EpisodeRecorder, gym.Env[Any, Any]]:
    """Build one environment with all wrappers, and return it with and without its vec wrappers."""
    with preserve_rng_state():
        venv = make_vec_env(config, seed=seed, n_envs=1, render_mode=render_mode)
        inner = venv.unwrapped
        if isinstance(inner, ReturnedVecEnv) or not isinstance(inner, InProcessVecEnv):
            venv.close()
            raise RunError(f"'{config.env.name}' returns a VecEnv, whose environments step together")
        training_env = model.get_env()
        if training_env is not None and training_env.has_attr("capture_for_copies"):
            load_wrapper_states(venv, capture_wrapper_states(training_env))
    return venv, inner.envs[0]


class _GivenObservation(gym.Env[Any, Any]):
    """Returns the observation that it was given."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        return self.observation, 0.0, False, False, {}


class Predictor:
    """Chooses actions for observations of one environment, one after another.

    :param config: of the run
    :param model: its model
    """

    def __init__(self, config: ResolvedConfig, model: BaseAlgorithm) -> None:
        venv, env = _make_venv(config, model, 0, None)
        venv.close()
        self._model = model
        self._source = _GivenObservation(env)
        self._format = ObservationFormat(self._source.observation_space)
        self._venv: VecEnv = InProcessVecEnv([lambda: self._source])
        if layers := list_vec_wrappers(venv):
            layers[-1].venv, self._venv = self._venv, layers[0]
        self._takes_masks = "action_masks" in inspect.signature(model.predict).parameters
        self._n_masks = count_masks(self._source.action_space)
        self._remembers = not all(isinstance(layer, VecNormalize) for layer in layers)
        self._state: Any = None  # of an LSTM
        self._actions: NDArray[Any] | None = None  # the last ones

    def predict(
        self, observation: Any, episode_start: bool | None, action_masks: Any | None, deterministic: bool
    ) -> Any:
        """Return the action for an observation; see :meth:`toolkit.Run.predict`."""
        try:
            self._format.check(observation)
        except FaultyEnvironmentError as error:
            given = error.message.removeprefix("the environment returns ")
            raise ToolkitError(f"predict takes one observation of make_env(), but got {given}") from None
        if self._takes_masks and action_masks is None:
            raise ToolkitError("the model chooses among legal actions", "pass action_masks=env.action_masks()")
        masks = {} if action_masks is None else {"action_masks": np.asarray(action_masks)[None]}
        if masks and not self._takes_masks:
            raise ToolkitError("the algorithm of this run takes no action_masks", "leave them out")
        if masks and masks["action_masks"].size != self._n_masks:
            size = masks["action_masks"].size
            raise ToolkitError(f"action_masks should have {self._n_masks} values, one for each action, not {size}")
        if self._remembers and episode_start is None:
            raise ToolkitError(
                "the agent remembers earlier observations, so predict has to know where an episode starts",
                "pass episode_start=True after a reset, and False in other steps",
            )
        self._source.observation = observation
        if episode_start:
            self._state = self._actions = None
        is_start = self._actions is None
        observations = self._venv.reset() if self._actions is None else self._venv.step(self._actions)[0]
        with limit_torch_threads(self._model):
            self._actions, self._state = self._model.predict(
                observations,  # type: ignore[arg-type]  # SB3's vec envs declare more than they return
                state=self._state,
                episode_start=np.array([is_start]),
                deterministic=deterministic,
                **masks,
            )
        if self._state is not None:
            self._remembers = True
        action = self._actions[0]
        return int(action) if isinstance(self._source.action_space, gym.spaces.Discrete) else action
