"""Completed episodes of a run: their log, and the recorder that fills it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.envs.replayable import RAW_EPISODE
from toolkit.utils.data import DEFAULT_WINDOW, mean_of_last
from toolkit.utils.errors import FaultyEnvironmentError


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


class EpisodeLog(Sequence[Episode]):
    """The completed episodes of a run, in the order of completion; it grows while the run trains.

    >>> log = EpisodeLog([Episode(10.0, -1.0, 10, 0.1), Episode(20.0, -1.0, 20, 0.3)])
    >>> len(log), log.mean_return()
    (2, 15.0)
    """

    def __init__(self, episodes: Iterable[Episode] = ()) -> None:
        self._episodes = [*episodes]

    def __len__(self) -> int:
        return len(self._episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...

    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        return self._episodes[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # it grows

    def append(self, episode: Episode) -> None:
        """Add an episode that has just ended."""
        self._episodes.append(episode)

    def replace(self, episodes: Iterable[Episode]) -> None:
        """Replace all episodes."""
        self._episodes[:] = episodes

    def mean_return(self, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the mean raw return of the last episodes.

        :param window: number of episodes, at least 1; fewer count if fewer are completed
        :param end: number of the episode that the window ends with, counted from 1; by default the last one
        :return: None if the window holds no episode
        """
        return mean_of_last([episode.raw_return for episode in self._window(window, end)], window)

    def best_mean_return(self, window: int = DEFAULT_WINDOW) -> float | None:
        """Return the highest mean raw return of any ``window`` consecutive episodes so far.

        :param window: number of episodes, at least 1
        :return: None while fewer episodes are completed
        """
        means = [self.mean_return(window, end) for end in range(window, len(self) + 1)]
        return max((mean for mean in means if mean is not None), default=None)

    def mean_shaped_return(self, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the mean shaped return of the last episodes; see :meth:`mean_return`."""
        return mean_of_last([episode.shaped_return for episode in self._window(window, end)], window)

    def _window(self, window: int, end: int | None) -> list[Episode]:
        end = len(self) if end is None else end
        return self._episodes[max(0, end - window) : end]


class EpisodeRecorder(VecEnvWrapper):
    """Record every completed episode of the environments inside, and show it to SB3 as ``info["episode"]``.

    Episodes that end in the same step are in the order of their environments. The recorder reads what leaves the
    environments, because a callback's ``locals`` differ between algorithms (ARS sets none). An end without a completed
    episode, such as a lost life in a game that continues, is not recorded.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.hides_monitor = False
        self.episodes = EpisodeLog()
        self._start: float | None = None
        self._shaped_returns = np.zeros(self.num_envs)

    def reset(self) -> VecEnvObs:
        """Reset all environments; running episodes are dropped."""
        self._shaped_returns[:] = 0.0
        self._start = self._start or time.monotonic()
        observations = self.venv.reset()
        _require_finite(observations, "observations")
        for index in range(self.num_envs):
            self._pop_episode(index)
        return observations

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """Return whether each environment is wrapped; for Monitor, False if :attr:`hides_monitor`.

        ARS scores its candidates with ``evaluate_policy``, which takes raw returns when it finds a Monitor. In
        training it has to see the rewards that the wrappers return.
        """
        if self.hides_monitor and issubclass(Monitor, wrapper_class):
            return [False] * len(list(self._get_indices(indices)))
        return self.venv.env_is_wrapped(wrapper_class, indices)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the first reset, which is where training starts."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments, and record the episodes that ended."""
        observations, rewards, dones, infos = self.venv.step_wait()
        _require_finite(rewards, "rewards")
        _require_finite(observations, "observations")
        self._shaped_returns += rewards
        if dones.any():
            indices = [int(index) for index in np.flatnonzero(dones)]
            _require_finite([infos[index].get("terminal_observation") for index in indices], "last observations")
            for index in indices:
                if episode := self._pop_episode(index):
                    infos[index]["episode"] = episode
                    self._append(index, episode)
        return observations, rewards, dones, infos

    def state_dict(self) -> dict[str, Any]:
        """Return all completed episodes and the shaped returns of the running ones."""
        columns = np.array(self.episodes[:], dtype=np.float64).reshape(-1, len(Episode._fields))
        return {"episodes": columns, "shaped_returns": self._shaped_returns.copy(), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; time continues from there."""
        self.episodes.replace(Episode(float(r), float(s), int(n), float(t)) for r, s, n, t in state["episodes"])
        self._shaped_returns = state["shaped_returns"]
        self._start = time.monotonic() - state["seconds"]

    def _pop_episode(self, index: int) -> dict[str, Any] | None:
        """Return the episode that the last reset of an environment completed, once; None if there is none.

        No wrapper outside can change it. One that ends episodes without a reset must not see an earlier episode again.
        """
        episode: dict[str, Any] | None = self.unwrapped.reset_infos[index].pop(RAW_EPISODE, None)
        return episode

    def _append(self, index: int, episode: dict[str, Any]) -> None:
        shaped_return = float(self._shaped_returns[index])
        self._shaped_returns[index] = 0.0
        self.episodes.append(Episode(float(episode["r"]), shaped_return, int(episode["l"]), self.seconds))


def _require_finite(values: Any, kind: str) -> None:
    """Refuse NaN and infinity: a network learns nothing but NaN from them."""
    if isinstance(values, dict):
        values = [*values.values()]
    if isinstance(values, list | tuple):
        for value in values:
            _require_finite(value, kind)
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
        message = f"the environments return {kind} that are not finite numbers"
        raise FaultyEnvironmentError(message, "correct them, or their wrappers")
