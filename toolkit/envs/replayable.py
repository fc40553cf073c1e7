"""One environment whose episodes are counted raw, start from seeds of their own, and can be played again."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor

from toolkit.snapshots import capture, plain_data, restore
from toolkit.utils.errors import FaultyEnvironmentError

_TAKES_APART = ("stable_baselines3.common.monitor", "gymnasium.wrappers.", __name__)

_STATISTICS = (NormalizeObservation, NormalizeReward)
_START_ANEW = (TimeLimit, OrderEnforcing, PassiveEnvChecker)  # of an episode these bring nothing into the next


class RawMonitor(Monitor):
    """SB3's Monitor, which keeps every episode until it is asked for, also one that a reset cuts short.

    What wrappers outside make of ``info`` does not matter to it.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.resets = 0
        self.observation: Any = None
        self._completed: list[dict[str, Any]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and note an episode that this cuts short."""
        if self.rewards and not self.needs_reset:
            seconds = round(time.time() - self.t_start, 6)
            self._completed.append({"r": round(sum(self.rewards), 6), "l": len(self.rewards), "t": seconds})
        self.resets += 1
        with _RESET:
            self.observation, info = super().reset(**kwargs)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and note an episode that has ended."""
        with _STEP:
            step = super().step(action)
        self.observation = step[0]
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


class ReplayableEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds every reset, and remembers what was done since the environment itself was last reset.

    So a copy of the environment, in another process as well, comes to the same place: by a reset with the same seed
    and the same actions. What wrappers keep from one episode to the next is carried over beside it.

    :param env: the environment in all its wrappers
    :param monitor: the :class:`RawMonitor` among them; what resets it resets the environment itself
    """

    def __init__(self, env: gym.Env[Any, Any], monitor: RawMonitor) -> None:
        super().__init__(env)
        self._monitor = monitor
        self._seed = 0
        self._episode = -1
        self._first_episode = 0
        self._actions: list[Any] = []
        self._resets: list[int] = []  # how many actions there were at resets that did not reach the environment
        self._start: list[capture.Live] | None = None  # what wrappers held after the first reset
        self._fresh = self._before = deepcopy(self.wrapper_states())  # what wrappers held when they were made
        self._carries_over = not all(type(layer) in _START_ANEW for layer in self._layers())
        self._shape = env.observation_space.shape if isinstance(env.observation_space, gym.spaces.Box) else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with the next episode's seed, which follows from the last seed given and the number of the episode."""
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        resets = self._monitor.resets
        before = deepcopy(self.wrapper_states()) if self._carries_over else self._fresh
        observation, info = self.env.reset(seed=self._episode_seed, options=options)
        if self._monitor.resets > resets:
            self._first_episode = self._episode
            self._actions, self._resets, self._before = [], [], before
        else:  # as where a lost life ends the episode, and the game goes on
            self._resets.append(len(self._actions))
        if self._start is None:
            self._start = [captured.live for _, captured in self._captured()]
        return self._checked(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and remember the action."""
        self._actions.append(np.copy(action) if isinstance(action, np.ndarray) else action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._checked(observation), reward, terminated, truncated, info

    @property
    def _episode_seed(self) -> int:
        if self._episode == 0:
            return self._seed
        return int(np.random.SeedSequence(self._seed, spawn_key=(self._episode,)).generate_state(1)[0])

    def _checked(self, observation: Any) -> Any:
        if self._shape is not None:
            array = np.asarray(observation)
            if array.shape != self._shape or array.dtype.kind not in "biuf":
                wrong = f"an observation of shape {array.shape} and type {array.dtype}, not {self._shape} and numbers"
                raise FaultyEnvironmentError(f"the environment gives {wrong}", "mend it, or its wrappers")
        return observation

    def place(self) -> dict[str, Any]:
        """Return where the environment is, as plain data."""
        return {
            "seed": self._seed,
            "episode": self._first_episode,
            "actions": np.array(self._actions),
            "resets": list(self._resets),
            "observation": self._shown(),
            "before": self._before,
            "wrappers": self.wrapper_states(),
        }

    def go_to(self, place: dict[str, Any]) -> bool:
        """Bring the environment where another one was; say whether it shows what that showed."""
        for states in (place["before"], self._fresh):
            self._seed, self._episode = place["seed"], place["episode"] - 1
            self._put_before(states)
            resets = self._monitor.resets
            self.reset()
            if self._monitor.resets > resets:
                break  # a wrapper in the middle of a game does not let the reset through
        self._monitor.take_completed()
        more_resets = Counter(place["resets"])
        for number, action in enumerate([*place["actions"], None]):
            for _ in range(more_resets[number]):
                self._monitor.take_completed()  # what a reset follows was taken then, too
                self.reset()
            if number < len(place["actions"]):
                self.step(action)
        reached = place["observation"] is None or plain_data.same(self._shown(), place["observation"])
        self.load_wrapper_states(place["wrappers"])
        return reached

    def _shown(self) -> Any:
        """Return what the environment itself showed last; None if it cannot be written down."""
        try:
            return capture.encode(self._monitor.observation)
        except plain_data.NotPlainError:
            return None

    def _put_before(self, states: list[dict[str, Any]]) -> None:
        for layer, kept in zip(self._layers(), states, strict=True):
            if kept["$"] != "attributes":
                restore.restore(layer, kept)
                continue
            for name, data in kept["state"].items():
                with suppress(*restore.MISFITS):  # what a reset has made it makes again
                    restore.restore_attributes(layer, {name: data})

    def wrapper_states(self) -> list[dict[str, Any]]:
        """Return what each wrapper keeps, outermost first."""
        return [captured.state for _, captured in self._captured()]

    def load_wrapper_states(self, states: list[dict[str, Any] | None]) -> None:
        """Put back what each wrapper keeps; None leaves one as it is."""
        for layer, kept in zip(self._layers(), states, strict=True):
            if kept is not None:
                restore.restore(layer, kept)

    def learnt(self) -> list[dict[str, Any] | None]:
        """Return what wrappers learn while an agent is trained, which it needs afterwards; None for the others.

        These are Gymnasium's statistics, and all that has a ``state_dict``.
        """
        learning = [isinstance(layer, _STATISTICS) or hasattr(type(layer), "state_dict") for layer in self._layers()]
        states = self.wrapper_states()
        return [kept if learns else None for kept, learns in zip(states, learning, strict=True)]

    def unrestorable(self) -> list[str]:
        """Name what wrappers keep that cannot be put back.

        Objects that a wrapper makes while an episode is played are named as well, though playing it again makes them.
        """
        return [f"wrapper {type(layer).__name__}: {name}" for layer, kept in self._captured() for name in kept.missed]

    def freeze(self) -> None:
        """Let wrappers learn nothing more of what they see, where they can be told (Gymnasium's have a switch)."""
        for layer in self._layers():
            if isinstance(layer, _STATISTICS):
                layer.update_running_mean = False

    def _captured(self) -> list[tuple[gym.Env[Any, Any], capture.CapturedState]]:
        layers, around = self._layers(), [self, self._monitor, self.unwrapped]
        starts = itertools.repeat(None) if self._start is None else self._start
        return [
            (layer, capture.capture(layer, [*around, *layers], start))
            for layer, start in zip(layers, starts, strict=False)
        ]

    def _layers(self) -> list[gym.Wrapper[Any, Any, Any, Any]]:
        layers: list[gym.Wrapper[Any, Any, Any, Any]] = []
        env: Any = self.env
        while isinstance(env, gym.Wrapper):
            if not isinstance(env, Monitor):
                layers.append(env)
            env = env.env
        return layers


class _ContractKept:
    """Says of what Monitor and Gymnasium's wrappers cannot take apart that the environment should not return it."""

    def __init__(self, told: str, expected: str) -> None:
        self._told = told
        self._expected = expected

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: Any) -> None:
        if not isinstance(error, TypeError | ValueError):
            return
        while frames.tb_next is not None:
            frames = frames.tb_next
        if frames.tb_frame.f_globals.get("__name__", "").startswith(_TAKES_APART):
            message = f"the environment's {self._told} does not return {self._expected}: {error}"
            raise FaultyEnvironmentError(message, "mend it, or its wrappers") from error


_RESET = _ContractKept("reset", "an observation and a dict")
_STEP = _ContractKept("step", "observation, reward, terminated, truncated and info")
