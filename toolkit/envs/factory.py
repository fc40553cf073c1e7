"""An environment config to an SB3 ``VecEnv`` that knows the raw return of every episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.config.components import BoundComponent, import_modules
from toolkit.config.load import ResolvedConfig
from toolkit.config.schema import RunConfig
from toolkit.envs.replayable import RawMonitor, ReplayableEpisodes
from toolkit.envs.vec_env import InProcessVecEnv, SubprocessVecEnv
from toolkit.snapshots import capture, restore
from toolkit.utils.errors import FaultyEnvironmentError

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

    def __init__(self, venv: VecEnv) -> None:
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
        _refuse_unless_finite(observations, "observations")
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
        _refuse_unless_finite(rewards, "rewards")
        _refuse_unless_finite(observations, "observations")
        self._shaped_returns += rewards
        if dones.any():
            ends = [infos[index].get("terminal_observation") for index in np.flatnonzero(dones)]
            _refuse_unless_finite(ends, "last observations")
            for index in np.flatnonzero(dones):
                (episode,) = self.venv.env_method("take_completed", indices=int(index))
                if episode:
                    infos[index]["episode"] = episode
                    self._append(int(index), episode)
        return observations, rewards, dones, infos

    def state_dict(self) -> dict[str, Any]:
        """Return all completed episodes and the running ones' shaped returns."""
        columns = np.array(self.episodes, dtype=np.float64).reshape(-1, len(Episode._fields))
        return {"episodes": columns, "shaped_returns": self._shaped_returns.copy(), "seconds": self.seconds}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; time goes on from there."""
        self.episodes[:] = [Episode(float(r), float(s), int(n), float(t)) for r, s, n, t in kept["episodes"]]
        self._shaped_returns = kept["shaped_returns"]
        self._start = time.monotonic() - kept["seconds"]

    def _append(self, index: int, episode: dict[str, Any]) -> None:
        shaped_return = float(self._shaped_returns[index])
        self._shaped_returns[index] = 0.0
        self.episodes.append(Episode(float(episode["r"]), shaped_return, int(episode["l"]), self.seconds))


def _refuse_unless_finite(values: Any, what: str) -> None:
    """Refuse NaN and infinity, of which a network learns nothing but NaN."""
    if isinstance(values, dict):
        values = [*values.values()]
    if isinstance(values, list | tuple):
        for one in values:
            _refuse_unless_finite(one, what)
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
        message = f"the environments give {what} that are not finite numbers"
        raise FaultyEnvironmentError(message, "mend them, or their wrappers")


def make_vec_env(
    config: ResolvedConfig,
    *,
    seed: int,
    n_envs: int | None = None,
    render_mode: str | None = None,
    wrap: Wrap | None = None,
) -> EpisodeRecorder:
    """Build a run's environments: Gymnasium's own wrappers, Monitor, the config's wrappers, and those of all together.

    :param seed: environment ``i`` starts with ``seed + i``, and each of its episodes with a seed that follows from it
    :param n_envs: how many; by default the config's, each in a process of its own if the config says so
    :param wrap: put around each environment last
    :raises ConfigError: if an environment or a wrapper cannot be built
    """
    wrappers, plain_config = config.components.wrappers, config.model_copy()  # all that a subprocess needs

    def make() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = make_env(plain_config, wrappers, render_mode)
        return wrap(env) if wrap else env

    apart = config.env.vec_env == "subproc" and n_envs is None and wrap is None
    makers = [make] * (n_envs or config.env.n_envs)
    venv: VecEnv = SubprocessVecEnv(makers, config.env.step_timeout) if apart else InProcessVecEnv(makers)
    try:
        for wrapper in config.components.vec_wrappers:
            venv = wrapper.build(venv)
        recorder = EpisodeRecorder(venv)
        recorder.seed(seed)
    except BaseException:
        venv.close()
        raise
    return recorder


def wrapper_statistics(venv: VecEnv) -> dict[str, Any]:
    """Return what wrappers have learnt, statistics of observations for one, as plain data; empty if there is nothing.

    Of several environments it is what the first one's wrappers have.
    """
    (wrappers,) = venv.env_method("learnt", indices=[0])
    if not vec_wrappers(venv) and not any(wrappers):
        return {}
    return {"wrappers": wrappers, "vec_wrappers": [_statistics(layer) for layer in vec_wrappers(venv)]}


def load_wrapper_statistics(venv: VecEnv, learnt: dict[str, Any]) -> None:
    """Give wrappers what :func:`wrapper_statistics` returned of other environments of a config; it stays as it is.

    :raises ValueError: if it does not fit
    """
    if not learnt:
        return
    venv.env_method("load_wrapper_states", learnt["wrappers"])
    venv.env_method("freeze")
    for layer, statistics in zip(vec_wrappers(venv), learnt["vec_wrappers"], strict=True):
        restore.restore_attributes(layer, statistics)
        if isinstance(layer, VecNormalize):
            layer.training = False


def _statistics(layer: VecEnvWrapper) -> dict[str, Any]:
    names = ("obs_rms", "ret_rms") if isinstance(layer, VecNormalize) else ()
    return {name: capture.encode(getattr(layer, name)) for name in names if name in vars(layer)}


def vec_wrappers(venv: VecEnv) -> list[VecEnvWrapper]:
    """Return the config's wrappers of all environments together, outermost first."""
    layers: list[VecEnvWrapper] = []
    while isinstance(venv, VecEnvWrapper):
        if not isinstance(venv, EpisodeRecorder | VecTransposeImage):
            layers.append(venv)
        venv = venv.venv
    return layers


def make_env(
    config: RunConfig, wrappers: Sequence[BoundComponent], render_mode: str | None = None
) -> ReplayableEpisodes:
    """Build one environment in its wrappers, in any process.

    :param wrappers: innermost first
    :raises ConfigError: if it or a wrapper cannot be built
    """
    base = _make_base(config, render_mode)
    try:
        monitor = RawMonitor(base)
        env: gym.Env[Any, Any] = monitor
        for wrapper in wrappers:
            env = wrapper.build(env)
        return ReplayableEpisodes(env, monitor)
    except BaseException:
        base.close()
        raise


def _make_base(config: RunConfig, render_mode: str | None) -> gym.Env[Any, Any]:
    import_modules(config)  # this may be another process than the one that looked everything up
    env = config.env
    given: dict[str, Any] = {"max_episode_steps": env.max_episode_steps, "render_mode": render_mode}
    component = BoundComponent(env.id, ("env",), gym.make, env.params, config.make_error)
    made: gym.Env[Any, Any] = component.build(env.id, **{name: value for name, value in given.items() if value})
    return made
