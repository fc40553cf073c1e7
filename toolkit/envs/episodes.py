"""Training episodes of a run: their log, and the recorder that fills it."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from toolkit.envs.episode_numbers import REWARD_SUMS, EpisodeNumbers, Numbers, from_columns, to_columns
from toolkit.envs.parameters import EnvParameters
from toolkit.envs.recent_steps import RecentSteps
from toolkit.envs.replayable import DROPPED_EPISODE, RAW_EPISODE
from toolkit.envs.value_trace import ValueTrace
from toolkit.utils.data import DEFAULT_WINDOW, MONITOR_COLUMNS, compute_mean, mean_of_last
from toolkit.utils.errors import FaultyEnvironmentError, make_printable

_MAX_TEXT_LENGTH = 10_000  # characters of a value in monitor.csv


class Episode(NamedTuple):
    """One training episode that counts.

    :param raw_return: sum of the environment's own rewards
    :param shaped_return: sum of the rewards that the algorithm saw, after the wrappers
    :param length: number of the agent's steps; a step of a wrapper that skips frames is one step
    :param seconds: wall-clock time from the first reset of the environments until the episode counted
    :param timestep: number of the run's timesteps, over all environments, when the episode counted
    :param is_success: whether the environment calls it a success, in ``info["is_success"]``; None if it does not say
    :param extras: names and values, as text, of what else ``info["episode"]`` holds, such as ``env.info_keywords``
    :param numbers: names and values of what callbacks log of it: see :mod:`toolkit.envs.episode_numbers`
    """

    raw_return: float
    shaped_return: float
    length: int
    seconds: float
    timestep: int = 0
    is_success: float | None = None
    extras: tuple[tuple[str, str], ...] = ()
    numbers: Numbers = ()


class EpisodeLog(Sequence[Episode]):
    """The training episodes that count, in the order of their start; it grows while the run trains.

    An episode counts once every episode that started before it, or in the same step, has ended.

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
        """Add an episode."""
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

    def mean_shaped_return(self, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the mean shaped return of the last episodes; see :meth:`mean_return`."""
        return mean_of_last([episode.shaped_return for episode in self._window(window, end)], window)

    def mean_length(self, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the mean length of the last episodes, in the agent's steps; see :meth:`mean_return`."""
        return mean_of_last([episode.length for episode in self._window(window, end)], window)

    def success_rate(self, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the share of successes among those of the last episodes that say so; see :meth:`mean_return`."""
        outcomes = [episode.is_success for episode in self._window(window, end)]
        return mean_of_last([outcome for outcome in outcomes if outcome is not None], window)

    def mean_extra(self, name: str, window: int = DEFAULT_WINDOW, end: int | None = None) -> float | None:
        """Return the mean of an extra among those of the last episodes where it is a number or a bool.

        :param name: such as one of ``env.info_keywords``
        :param window: see :meth:`mean_return`
        """
        texts = [dict(episode.extras).get(name, "") for episode in self._window(window, end)]
        return mean_of_last([number for number in map(_read_number, texts) if number is not None], window)

    def mean_numbers(self, window: int = DEFAULT_WINDOW) -> dict[str, float]:
        """Return the mean of each of the :attr:`Episode.numbers`, among those of the last episodes that have it.

        :param window: see :meth:`mean_return`
        """
        values: dict[str, list[float]] = {}
        for episode in self._window(window, None):
            for name, value in episode.numbers:
                values.setdefault(name, []).append(value)
        return {name: compute_mean(of_name) for name, of_name in values.items()}

    def _window(self, window: int, end: int | None) -> list[Episode]:
        end = len(self) if end is None else end
        return self._episodes[max(0, end - window) : end]


class EpisodeRecorder(VecEnvWrapper):
    """Record the episodes of the environments inside, and show each to SB3 as ``info["episode"]`` when it ends.

    In the order of completion, short episodes come first: their share in a window of last episodes is too large. So
    :attr:`episodes` has them in the order of their start, those of one step in the order of their environments. An
    episode that has ended is held until every episode that started before it, or in the same step, has ended. Episodes
    that a reset of all environments interrupts do not count, nor do those that are held because of them.

    The recorder reads what leaves the environments, because a callback's ``locals`` differ between algorithms (ARS
    sets none). An end without a completed episode, such as a lost life in a game that continues, is not recorded.

    :param accepts_infinity: whether observations may be infinite, for networks that can take it
    :param parameters: what changes between episodes
    :ivar before_reset: called where all environments are about to be reset
    :ivar is_stateless: whether nothing lasts from one reset of all environments to the next
    :ivar get_timesteps: returns the run's timesteps at the end of the present step; by default, steps are counted here
    :ivar recent_steps: the last steps, if they are kept
    :ivar numbers: sums up what callbacks log of an episode, if they do
    :ivar value_trace: follows the value estimates of episodes, if there are any
    :ivar taken_over: what the wrappers have taken over from training, until the next reset
    """

    def __init__(self, venv: VecEnv, accepts_infinity: bool = False, parameters: EnvParameters | None = None) -> None:
        super().__init__(venv)
        self.parameters = parameters or EnvParameters()
        self._accepts_infinity = accepts_infinity
        self.hides_monitor = False
        self.is_stateless = False
        self.before_reset: Callable[[], None] = lambda: None
        self.episodes = EpisodeLog()
        self.get_timesteps: Callable[[], int] = lambda: self._steps * self.num_envs
        self.recent_steps: RecentSteps | None = None
        self.numbers: EpisodeNumbers | None = None
        self.value_trace: ValueTrace | None = None
        self.taken_over: dict[str, Any] | None = None
        self._actions: NDArray[Any]
        self._start: float | None = None
        self._shaped_returns = np.zeros(self.num_envs)
        self._steps = 0
        self._start_steps = np.zeros(self.num_envs, dtype=np.int64)
        self._held: list[tuple[int, int, Episode]] = []  # heap: step of the start, environment, ended episode
        self._limits = np.full(self.num_envs, np.inf)
        self._left = self._limits.copy()  # episodes of each environment that may still count

    def limit_episodes(self, total: int) -> None:
        """Let only so many episodes count after each reset of all environments, as SB3's ``evaluate_policy`` does.

        Each environment has a share. The next reset comes when all have played theirs: until then, an environment
        plays the more further episodes, the shorter they are.
        """
        self._limits[:] = [(total + index) // self.num_envs for index in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        """Reset all environments; running episodes are dropped."""
        self.before_reset()
        self._shaped_returns[:] = 0.0
        self.taken_over = None
        self._start = self._start or time.monotonic()
        self._plan_parameters(self.get_timesteps() - self.num_envs)
        observations = self.venv.reset()
        require_finite(observations, "observations", self._accepts_infinity)
        for reset_info in self.unwrapped.reset_infos:
            reset_info.pop(RAW_EPISODE, None)
        self._start_steps[:] = self._steps
        self._held.clear()
        self._left[:] = self._limits
        if self.recent_steps is not None:
            self.recent_steps.interrupt()
        if self.numbers is not None:
            self.numbers.reset()
        if self.value_trace is not None:
            self.value_trace.drop_all()
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

    @property
    def n_started(self) -> int:
        """Number of episodes that have started and count, or may count when they have ended."""
        return len(self.episodes) + self.n_held + self.num_envs

    @property
    def n_held(self) -> int:
        """Number of episodes that have ended and do not count yet."""
        return len(self._held)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start a step of all environments."""
        self._actions = actions
        self._plan_parameters(self.get_timesteps())
        self.venv.step_async(actions)

    def _plan_parameters(self, timestep: int) -> None:
        """Tell the environments the values that parameters have in the episodes that start now."""
        if self.parameters.is_used and (values := self.parameters.update(timestep, self.episodes)) is not None:
            base_venv: Any = self.unwrapped
            base_venv.plan_parameters(values)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments, and record the episodes that ended."""
        observations, rewards, dones, infos = self.venv.step_wait()
        require_finite(rewards, "rewards")
        require_finite(observations, "observations", self._accepts_infinity)
        self._shaped_returns += rewards
        self._steps += 1
        if self.recent_steps is not None:
            self.recent_steps.add(observations, self._actions, rewards, dones)
        if self.numbers is not None:
            self.numbers.add_step(infos)
        if dones.any():
            indices = [int(index) for index in np.flatnonzero(dones)]
            last_observations = [infos[index].get("terminal_observation") for index in indices]
            require_finite(last_observations, "last observations", self._accepts_infinity)
            reset_infos = self.unwrapped.reset_infos
            for index in indices:
                if self.recent_steps is not None and infos[index].get("TimeLimit.truncated"):
                    self.recent_steps.mark_truncated(index)
                self._end_episode(index, infos[index], reset_infos[index])
            self._count_episodes()
        if self.value_trace is not None:
            self.value_trace.add(observations, rewards, dones, infos)
        return observations, rewards, dones, infos

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes that count, those that are held, and where the running ones started."""
        held = sorted(self._held)
        return {
            "episodes": _to_columns(self.episodes),
            "extras": _to_lists(self.episodes),
            "shaped_returns": self._shaped_returns.copy(),
            "seconds": self.seconds,
            "steps": self._steps,
            "start_steps": self._start_steps.copy(),
            "held": [[start, index] for start, index, _ in held],
            "held_episodes": _to_columns([episode for *_, episode in held]),
            "held_extras": _to_lists([episode for *_, episode in held]),
            "recent_steps": None if self.recent_steps is None else self.recent_steps.state_dict(),
            "parameters": self.parameters.state_dict(),
            "value_trace": None if self.value_trace is None else self.value_trace.state_dict(),
            **self._get_numbers_state([episode for *_, episode in held]),
        }

    def _get_numbers_state(self, held: Sequence[Episode]) -> dict[str, Any]:
        """Return what callbacks log; nothing if they log none."""
        if self.numbers is None:
            return {}
        return {
            "numbers": to_columns([episode.numbers for episode in self.episodes]),
            "held_numbers": to_columns([episode.numbers for episode in held]),
            "running_numbers": self.numbers.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; time continues from there.

        A state of version 0.1.0 has episodes in the order of completion, no starts of the running ones, and no recent
        steps.
        """
        self._shaped_returns = state["shaped_returns"]
        self._start = time.monotonic() - state["seconds"]
        self.parameters.load_state_dict(state.get("parameters", {}))  # earlier versions saved none
        if "steps" not in state:
            self._steps, self._held = 0, []
            self._start_steps[:] = [-len(episode["actions"]) for episode in self.env_method("replay_state")]
            self.episodes.replace(_from_version_0_1_0(state["episodes"]))
            return
        self._steps = state["steps"]
        self._start_steps[:] = state["start_steps"]
        self.episodes.replace(_from_columns(state["episodes"], state["extras"], state.get("numbers")))
        held = _from_columns(state["held_episodes"], state["held_extras"], state.get("held_numbers"))
        self._held = [(start, index, episode) for (start, index), episode in zip(state["held"], held, strict=True)]
        if self.recent_steps is not None and state.get("recent_steps") is not None:
            self.recent_steps.load_state_dict(state["recent_steps"])
        if self.numbers is not None:
            self.numbers.load_state_dict(state["running_numbers"])
        if self.value_trace is not None and state.get("value_trace") is not None:
            self.value_trace.load_state_dict(state["value_trace"])

    def _end_episode(self, index: int, info: dict[str, Any], reset_info: dict[str, Any]) -> None:
        """Hold the episode that an environment has completed, and show it in place of a wrapper's own.

        No wrapper outside can change the one in ``reset_info``. It is taken from there, as one that ends episodes
        without a reset must not see an earlier episode again.
        """
        shown = info.pop("episode", None)
        episode: dict[str, Any] | None = reset_info.pop(RAW_EPISODE, None)
        if reset_info.pop(DROPPED_EPISODE, False):  # it could not be replayed
            self._begin_episode(index)
            if self.value_trace is not None:
                self.value_trace.drop(index)
        if episode is None:
            return
        start = int(self._start_steps[index])
        shaped_return = float(self._shaped_returns[index])
        numbers: Numbers = ()
        if self.numbers is not None:
            numbers = self.numbers.end_episode(index, episode, shaped_return)
        episode.pop(REWARD_SUMS, None)
        episode["l"] = self._steps - start
        # values of info_keywords are in both; what is shown left the environment before its reset
        extras = {**episode, **shown} if isinstance(shown, dict) else {**episode}
        extras = {key: value for key, value in extras.items() if key not in MONITOR_COLUMNS}
        info["episode"] = episode | extras
        ended = Episode(
            raw_return=float(episode["r"]),
            shaped_return=shaped_return,
            length=episode["l"],
            seconds=self.seconds,
            is_success=read_is_success(info),
            extras=tuple((str(key), _to_text(value)) for key, value in extras.items()),
            numbers=numbers,
        )
        if self._left[index]:
            self._left[index] -= 1
            heapq.heappush(self._held, (start, index, ended))
        self._begin_episode(index)

    def _begin_episode(self, index: int) -> None:
        self._shaped_returns[index] = 0.0
        self._start_steps[index] = self._steps
        if self.numbers is not None:
            self.numbers.begin_episode(index)

    def _count_episodes(self) -> None:
        """Let the held episodes count that started before all running ones that may count."""
        first_running = np.where(self._left, self._start_steps, self._steps + 1).min()
        while self._held and self._held[0][0] < first_running:
            *_, episode = heapq.heappop(self._held)
            self.episodes.append(episode._replace(seconds=self.seconds, timestep=self.get_timesteps()))


_COLUMNS = Episode._fields[:-2]


def _to_columns(episodes: Iterable[Episode]) -> NDArray[np.float64]:
    """Return the numbers of episodes, of shape (episodes, columns); NaN for None."""
    return np.array([episode[:-2] for episode in episodes], dtype=np.float64).reshape(-1, len(_COLUMNS))


def _to_lists(episodes: Iterable[Episode]) -> list[list[list[str]]]:
    """Return the extras of episodes as plain data; empty if no episode has any."""
    extras = [[[*pair] for pair in episode.extras] for episode in episodes]
    return extras if any(extras) else []


def _from_columns(
    columns: NDArray[np.float64], extras: Sequence[Sequence[Sequence[str]]], numbers: Mapping[str, Any] | None
) -> list[Episode]:
    if columns.shape[1] != len(_COLUMNS):
        raise ValueError(f"an episode has {columns.shape[1]} numbers, not {len(_COLUMNS)}")
    pairs = [tuple((key, value) for key, value in pairs) for pairs in extras] if extras else itertools.repeat(())
    all_numbers = itertools.repeat(()) if numbers is None else from_columns(numbers)
    return [
        Episode(
            float(raw),
            float(shaped),
            int(length),
            float(seconds),
            int(timestep),
            None if np.isnan(is_success) else float(is_success),
            extra,
            logged,
        )
        for (raw, shaped, length, seconds, timestep, is_success), extra, logged in zip(
            columns, pairs, all_numbers, strict=False
        )
    ]


def _from_version_0_1_0(columns: NDArray[np.float64]) -> list[Episode]:
    timesteps = np.cumsum(columns[:, 2]).astype(np.int64)
    return [
        Episode(float(r), float(s), int(n), float(t), int(timestep))
        for (r, s, n, t), timestep in zip(columns, timesteps, strict=True)
    ]


def _to_text(value: Any) -> str:
    """Return a value as SB3's Monitor writes it, in one line."""
    return "" if value is None else make_printable(str(value), _MAX_TEXT_LENGTH)


def _read_number(text: str) -> float | None:
    """Return the number, or the bool as 0 or 1, of a cell in ``monitor.csv``; None for other texts, NaN and inf."""
    try:
        number = float(text)
    except ValueError:
        return {"True": 1.0, "False": 0.0}.get(text)
    return number if math.isfinite(number) else None


def read_is_success(info: Mapping[str, Any]) -> float | None:
    """Return ``info["is_success"]`` of an episode's last step: 0 to 1; None if it does not say.

    :raises FaultyEnvironmentError: if it is neither a bool nor such a number
    """
    value = info.get("is_success")
    if value is None:
        return None
    numbers = np.asarray(value)
    if numbers.size == 1 and numbers.dtype.kind in "biuf" and 0 <= numbers.item() <= 1:
        return float(numbers.item())
    message = f"the environment returns info['is_success'] as {make_printable(repr(value), 80)}"
    raise FaultyEnvironmentError(message, "return True or False, or a number from 0 to 1")


def require_finite(values: Any, kind: str, accepts_infinity: bool = False) -> None:
    """Refuse NaN and infinity: a network learns nothing but NaN from them.

    :param values: an array, or a list, tuple or dict of arrays
    :param kind: what they are, for the message
    :raises FaultyEnvironmentError: if one is not finite
    """
    if isinstance(values, dict):
        values = [*values.values()]
    if isinstance(values, (list, tuple)):
        for value in values:
            require_finite(value, kind, accepts_infinity)
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
        if accepts_infinity and not np.isnan(values).any():
            return
        message = f"the environments return {kind} that are not finite numbers"
        raise FaultyEnvironmentError(message, "correct them, or their wrappers")
