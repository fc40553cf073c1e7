"""A wrapper between two that watch it: what it does to the environment inside, and what it gives to the outside."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.envs.factory import make_env
from toolkit.envs.replayable import ReplayableEpisodes
from toolkit.testing.component import SEED, ConformanceError, called
from toolkit.testing.scripted_env import Inside
from toolkit.utils.errors import describe_error

_NEEDS = "if it needs a certain environment, name that one: env=..."
_COUNTED = "at the end of an episode info['episode'] is there, and Monitor's: the toolkit counts episodes itself"
_CONSTRUCTED = "its constructor has to make it a wrapper first: call super().__init__(env)"


class Step(NamedTuple):
    """What a reset or a step gave."""

    observation: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False

    @property
    def ended(self) -> bool:
        """Whether a reset follows."""
        return bool(self.terminated or self.truncated)


@dataclass(frozen=True)
class Rig:
    """A wrapper in its environment.

    :param name: the wrapper's class
    :param env: the whole, as a run has it
    :param inside: what is right inside the wrapper
    """

    name: str
    env: ReplayableEpisodes
    wrapper: gym.Wrapper[Any, Any, Any, Any]
    inside: Inside

    def reset(self, **kwargs: Any) -> Step:
        """Reset the wrapper, and check what it gives.

        :raises ConformanceError: if it is not what Gymnasium expects
        """
        given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        with called(f"{self.name}.reset({given})", f"reset takes seed and options by keyword; {_NEEDS}"):
            result = self.wrapper.reset(**kwargs)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            expected = "a Gymnasium reset returns (observation, info), and info is a dict: return both"
            raise ConformanceError(f"{self.name}.reset returned {_kind(result)}; {expected}")
        self._check_observation("reset", result[0])
        return Step(copy.deepcopy(result[0]))

    def step(self, action: Any) -> Step:
        """Step the wrapper, and check what it gives and what it did.

        :raises ConformanceError: if it is not what Gymnasium expects
        """
        before, within = len(self.inside.actions), not self.inside.needs_reset
        try:
            with called(f"{self.name}.step({action!r})", f"a step within an episode raises nothing; {_NEEDS}"):
                result: Any = self.wrapper.step(action)
        except ConformanceError as error:
            if within and self.inside.needs_reset:
                raise ConformanceError(f"{error}; {_COUNTED}") from error.__cause__
            raise
        finally:  # what was raised may come of it
            self._check_passed_on(self.inside.actions[before:])
        if not isinstance(result, tuple) or len(result) != 5:
            expected = "a Gymnasium step returns (observation, reward, terminated, truncated, info): return all five"
            raise ConformanceError(f"{self.name}.step returned {_kind(result)}; {expected}")
        observation, reward, terminated, truncated, info = result
        self._check_observation("step", observation)
        self._check_values(reward, terminated, truncated, info)
        self._check_count(len(self.inside.actions) - before)
        return Step(copy.deepcopy(observation), reward, terminated, truncated)

    def play(self, actions: Sequence[Any], **kwargs: Any) -> list[Step]:
        """Reset and take steps, through the ends of episodes."""
        steps = [self.reset(**kwargs)]
        for action in actions:
            steps.append(self.step(action))
            if steps[-1].ended:
                steps.append(self.reset())
        return steps

    def actions(self, number: int) -> list[Any]:
        """Draw actions, the same each time."""
        space = copy.deepcopy(self.wrapper.action_space)
        space.seed(SEED)
        return [space.sample() for _ in range(number)]

    def _check_observation(self, told: str, observation: Any) -> None:
        space = self.wrapper.observation_space
        if not space.contains(observation):
            expected = f"observation_space is {space}: give what lies in it, or declare the space of what you give"
            raise ConformanceError(f"{self.name}.{told} returned the observation {_value(observation)}; {expected}")

    def _check_values(self, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        numbers = (float, int, np.floating, np.integer)
        if not isinstance(reward, numbers) or isinstance(reward, bool) or not np.isfinite(reward):
            expected = "a reward is a finite number: return a float"
            raise ConformanceError(f"{self.name}.step returned the reward {_value(reward)}; {expected}")
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if type(value) is not bool:
                expected = f"{flag} is True or False: return bool({flag})"
                raise ConformanceError(f"{self.name}.step returned {_value(value)} as {flag}; {expected}")
        if not isinstance(info, dict):
            expected = "info is a dict: return the one that self.env.step gave"
            raise ConformanceError(f"{self.name}.step returned {_value(info)} as info; {expected}")

    def _check_count(self, made: int) -> None:
        if made != 1:
            how = "did not step the environment that it wraps" if not made else f"made {made} steps inside"
            advice = (
                "one step of a wrapper is one step of self.env, neither more nor past it (self.unwrapped): raw "
                "returns, episode lengths and timesteps are counted there. Call self.env.step(action) once; "
                "a frame skip is right only on purpose"
            )
            raise ConformanceError(f"{self.name}.step {how}; {advice}")

    def _check_passed_on(self, actions: list[Any]) -> None:
        for action in actions:
            if not _lies_in(self.inside.action_space, action):
                expected = f"the environment inside takes {self.inside.action_space}"
                advice = "convert the action, or declare an action_space of which every action can be passed on"
                raise ConformanceError(f"{self.name}.step passed on the action {_value(action)}; {expected}: {advice}")


@contextmanager
def rigged(config: ResolvedConfig, render_mode: str | None = None) -> Iterator[Rig]:
    """Build the environment of a config around its last wrapper, the one under test.

    :raises ConfigError: if something cannot be built
    :raises ConformanceError: if the wrapper does not wrap the environment that it is given
    """
    *others, subject = config.components.wrappers
    between = BoundComponent("Inside", (), Inside, {}, config.make_error)
    try:
        env = make_env(config, (*others, between, subject), render_mode)
    except AttributeError as error:
        seen = f"{subject.cls.__name__} cannot be used once it is built: {describe_error(error)}"
        raise ConformanceError(f"{seen}; {_CONSTRUCTED}") from error
    try:
        wrapper: Any = env.env
        inside: Any = wrapper
        while isinstance(inside, gym.Wrapper) and not isinstance(inside, Inside):
            inside = inside.env
        if not isinstance(inside, Inside):
            seen = f"{subject.cls.__name__} wraps {inside}, and not the environment that it is given"
            raise ConformanceError(f"{seen}; what lies between counts raw returns: call super().__init__(env)")
        if missing := sorted(vars(gym.Wrapper(inside)).keys() - vars(wrapper).keys()):
            raise ConformanceError(f"{subject.cls.__name__} has no {missing[0]}; {_CONSTRUCTED}")
        yield Rig(subject.cls.__name__, env, wrapper, inside)
    finally:
        env.unwrapped.close()


class AsNew(gym.Wrapper[Any, Any, Any, Any]):
    """Makes wrappers that learn from one episode to the next as new at each reset with a seed.

    So an environment can be compared with itself. Learning are those of which a run keeps what they have learnt.

    :param env: the outermost wrapper that is looked at
    :param whole: the environment that it is a part of
    """

    def __init__(self, env: gym.Env[Any, Any], whole: ReplayableEpisodes) -> None:
        super().__init__(env)
        self._whole = whole
        self._new = copy.deepcopy(whole.learned_states())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        if seed is not None:
            self._whole.load_wrapper_states(copy.deepcopy(self._new))
        return self.env.reset(seed=seed, options=options)


def difference(one: Sequence[Step], other: Sequence[Step]) -> str:
    """Say where two episodes differ first; nothing if they do not."""
    for number, pair in enumerate(zip(one, other, strict=False)):
        for part, *values in zip(Step._fields, *pair, strict=True):
            if not data_equivalence(values[0], values[1], exact=True):
                return f"the {part} of step {number}: {_value(values[0])} and {_value(values[1])}"
    return ""


def _lies_in(space: gym.Space[Any], value: Any) -> bool:
    """Say whether an action can be taken; of numbers, the type does not matter."""
    if not isinstance(space, gym.spaces.Box):
        return space.contains(value)
    array = np.asarray(value)
    return array.shape == space.shape and bool(np.all((array >= space.low - 1e-6) & (array <= space.high + 1e-6)))


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else _value(value)


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        text = np.array2string(value, threshold=8, precision=4)
        return f"{text} of shape {value.shape} and type {value.dtype}"
    return f"{value!r:.200} of type {type(value).__name__}"
