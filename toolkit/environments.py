"""An environment config to an SB3 ``VecEnv`` that knows the raw return of every episode."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple, SupportsFloat

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.components import Components, components_of
from toolkit.config import RunConfig
from toolkit.errors import Problem, describe

_UNCHANGING = (int, float, str, np.generic, type(None))
_STREAMS = ("training", "evaluation", "video", "confirmation")
Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


def derived_seed(seed: int, stream: str) -> int:
    """Return the seed of one use of a run's seed, so that no two uses share their episodes.

    :param stream: ``training``, ``evaluation``, ``video`` or ``confirmation``
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(stream),))
    return int(sequence.generate_state(1)[0])


class Episode(NamedTuple):
    """One completed episode.

    :param raw_return: sum of the environment's own rewards
    :param shaped_return: sum of the rewards that the algorithm saw, after the wrappers
    :param length: number of environment steps
    :param seconds: wall-clock time from the first reset of the environments to the end of the episode
    """

    raw_return: float
    shaped_return: float
    length: int
    seconds: float


class EpisodeRecorder(VecEnvWrapper):
    """Keeps every completed episode, in the order of completion, simultaneous ones in the order of their environment.

    It looks at what leaves the environments rather than at a callback's ``locals``, which differ between algorithms
    (ARS sets none). ``info["episode"]`` means what it means in SB3: an end that Monitor saw. A wrapper outside
    Monitor may end an episode by itself (``TimeLimit`` does); Monitor then learns of it at the reset that follows,
    and the episode is put where SB3 looks for it. A lost life that resets nothing is no end.
    """

    def __init__(self, venv: DummyVecEnv) -> None:
        super().__init__(venv)
        self.hides_monitor = False
        self.episodes: list[Episode] = []
        self._start: float | None = None
        self._shaped_returns = np.zeros(self.num_envs)

    def reset(self) -> VecEnvObs:
        """Reset all environments; running episodes are dropped."""
        self._shaped_returns[:] = 0.0
        self._start = self._start or time.monotonic()
        observations = self.venv.reset()
        self.venv.env_method("take_completed")
        return observations

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """Say whether environments are wrapped; of Monitor, no if :attr:`hides_monitor`.

        ARS scores its candidates with ``evaluate_policy``, which takes raw returns where it is told of a Monitor. In
        training it has to see what the wrappers make of them.
        """
        if self.hides_monitor and issubclass(Monitor, wrapper_class):
            return [False] * len(list(self._get_indices(indices)))
        return self.venv.env_is_wrapped(wrapper_class, indices)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the first reset, which is where training starts."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments and take down the episodes that ended."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._shaped_returns += rewards
        if dones.any():
            for index in np.flatnonzero(dones):
                (episode,) = self.venv.env_method("take_completed", indices=int(index))
                if episode:
                    infos[index]["episode"] = episode
                    self._append(int(index), episode)
        return observations, rewards, dones, infos

    def _append(self, index: int, episode: dict[str, Any]) -> None:
        shaped_return = float(self._shaped_returns[index])
        self._shaped_returns[index] = 0.0
        self.episodes.append(Episode(float(episode["r"]), shaped_return, int(episode["l"]), self.seconds))


class _Environments(DummyVecEnv):
    """SB3's environments in this process, which copy of a step's ``info`` only what an environment could change later.

    For many environments SB3's ``DummyVecEnv`` spends as much time on such copies as on their wrappers.
    """

    def step_wait(self) -> VecEnvStepReturn:
        infos: list[dict[str, Any]] = []
        for index, (env, action) in enumerate(zip(self.envs, self.actions, strict=True)):
            observation, self.buf_rews[index], terminated, truncated, info = env.step(action)
            info = {key: value if isinstance(value, _UNCHANGING) else deepcopy(value) for key, value in info.items()}
            info["TimeLimit.truncated"] = truncated and not terminated
            self.buf_dones[index] = terminated or truncated
            if terminated or truncated:
                info["terminal_observation"] = observation
                observation, self.reset_infos[index] = env.reset()
            self._save_obs(index, observation)
            infos.append(info)
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), infos


class _RawMonitor(Monitor):
    """SB3's Monitor, which keeps every episode until it is asked for, also one that a reset cuts short.

    What wrappers outside make of ``info`` does not matter to it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._completed: list[dict[str, Any]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.rewards and not self.needs_reset:
            seconds = round(time.time() - self.t_start, 6)
            self._completed.append({"r": round(sum(self.rewards), 6), "l": len(self.rewards), "t": seconds})
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        step = super().step(action)
        if self.needs_reset:
            self._completed.append(step[-1]["episode"])
        return step

    def take_completed(self) -> dict[str, Any] | None:
        """Return what was completed since this was last asked, as SB3 writes it in ``info["episode"]``.

        Games whose ends a wrapper hid are part of the episode that ends with the last of them.
        """
        completed, self._completed = self._completed, []
        if not completed:
            return None
        totals = {key: sum(episode[key] for episode in completed) for key in ("r", "l")}
        return completed[-1] | totals


def make_vec_env(
    config: RunConfig,
    *,
    seed: int,
    n_envs: int | None = None,
    render_mode: str | None = None,
    wrap: Wrap | None = None,
) -> EpisodeRecorder:
    """Build a run's environments: Gymnasium's own wrappers, Monitor, then the config's wrappers.

    :param seed: environment ``i`` starts with ``seed + i``
    :param n_envs: how many; by default the config's
    :param wrap: put around each environment last
    :raises ConfigError: if an environment or a wrapper cannot be built
    """
    components = components_of(config)

    def make() -> gym.Env[Any, Any]:
        env = _make_one(config, components, render_mode)
        return wrap(env) if wrap else env

    venv = EpisodeRecorder(_Environments([make] * (n_envs or config.env.n_envs)))
    venv.seed(seed)
    return venv


def _make_one(config: RunConfig, components: Components, render_mode: str | None) -> gym.Env[Any, Any]:
    base = _make_base(config, render_mode)
    try:
        env: gym.Env[Any, Any] = _RawMonitor(base)
        for wrapper in components.wrappers:
            env = wrapper.build(env)
    except BaseException:
        base.close()
        raise
    return env


def _make_base(config: RunConfig, render_mode: str | None) -> gym.Env[Any, Any]:
    env = config.env
    arguments: dict[str, Any] = {"max_episode_steps": env.max_episode_steps, "render_mode": render_mode}
    try:
        return gym.make(env.id, **{name: value for name, value in arguments.items() if value}, **env.params)
    except Exception as error:
        raise config.error([Problem(("env",), f"'{env.id}' cannot be built: {describe(error)}")]) from error
