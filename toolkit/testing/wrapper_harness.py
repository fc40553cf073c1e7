"""A harness around the wrapper under test: it records the wrapper's calls inward and checks what it returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from toolkit.config.components import BoundComponent
from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_numbers import REWARD_PARTS, read_reward_parts
from toolkit.envs.factory import make_env
from toolkit.envs.replayable import ReplayableEpisodes
from toolkit.testing.component import SEED, ConformanceError, report_exceptions
from toolkit.testing.scripted_env import RecordingBaseLayer, RecordingLayer, RecordingMonitor
from toolkit.utils.errors import FaultyEnvironmentError, describe_error

_ENV_ADVICE = "if it needs a certain environment, pass that one: env=..."
_MONITOR_ADVICE = "info['episode'] belongs to Monitor, which the toolkit already uses to count episodes"
_CONSTRUCTOR_ADVICE = "call super().__init__(env) first in its constructor"


class Step(NamedTuple):
    """The result of a reset or a step; ``info`` is None where it does not have to be the same."""

    observation: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False
    info: Any = None

    @property
    def is_last(self) -> bool:
        """Whether the episode ends with this step."""
        return bool(self.terminated or self.truncated)


@dataclass(frozen=True)
class WrapperHarness:
    """A wrapper under test in its environment. ``reset`` and ``step`` check Gymnasium's API.

    :param name: class name of the wrapper
    :param env: the whole environment, as in a run
    :param wrapper: the wrapper under test
    :param monitor: the layer directly inside the wrapper
    """

    name: str
    env: ReplayableEpisodes
    wrapper: gym.Wrapper[Any, Any, Any, Any]
    monitor: RecordingLayer

    def reset(self, **kwargs: Any) -> Step:
        """Reset the wrapper, and check what it returns.

        :raises ConformanceError: if it is not what Gymnasium expects
        """
        arguments = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        with report_exceptions(
            f"{self.name}.reset({arguments})", f"reset takes seed and options by keyword; {_ENV_ADVICE}"
        ):
            result = self.wrapper.reset(**kwargs)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            advice = "a Gymnasium reset returns (observation, info), and info is a dict: return both"
            raise ConformanceError(f"{self.name}.reset returned {_describe_result(result)}; {advice}")
        self._check_observation("reset", result[0])
        return Step(copy.deepcopy(result[0]))

    def step(self, action: Any) -> Step:
        """Step the wrapper, and check what it returns and what it did inside.

        :raises ConformanceError: if it is not what Gymnasium or the toolkit expects
        """
        n_actions, in_episode = len(self.monitor.actions), not self.monitor.needs_reset
        try:
            with report_exceptions(
                f"{self.name}.step({action!r})", f"a step within an episode raises nothing; {_ENV_ADVICE}"
            ):
                result: Any = self.wrapper.step(action)
        except ConformanceError as error:
            if in_episode and self.monitor.needs_reset:
                raise ConformanceError(f"{error}; {_MONITOR_ADVICE}") from error.__cause__
            raise
        finally:  # a wrong action inside may have caused the exception
            self._check_inner_actions(self.monitor.actions[n_actions:])
        if not isinstance(result, tuple) or len(result) != 5:
            advice = "a Gymnasium step returns (observation, reward, terminated, truncated, info): return all five"
            raise ConformanceError(f"{self.name}.step returned {_describe_result(result)}; {advice}")
        observation, reward, terminated, truncated, info = result
        self._check_observation("step", observation)
        self._check_values(reward, terminated, truncated, info)
        self._check_inner_steps(len(self.monitor.actions) - n_actions)
        return Step(copy.deepcopy(observation), reward, terminated, truncated)

    def play(self, actions: Sequence[Any], **kwargs: Any) -> list[Step]:
        """Reset and take steps, with another reset after each end of an episode."""
        steps = [self.reset(**kwargs)]
        for action in actions:
            steps.append(self.step(action))
            if steps[-1].is_last:
                steps.append(self.reset())
        return steps

    def sample_actions(self, number: int) -> list[Any]:
        """Sample actions, the same in every call."""
        space = copy.deepcopy(self.wrapper.action_space)
        space.seed(SEED)
        return [space.sample() for _ in range(number)]

    def _check_observation(self, method: str, observation: Any) -> None:
        space = self.wrapper.observation_space
        if not space.contains(observation):
            advice = f"observation_space is {space}: return what it contains, or declare the space of what is returned"
            raise ConformanceError(f"{self.name}.{method} returned the observation {_describe(observation)}; {advice}")

    def _check_values(self, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        numbers = (float, int, np.floating, np.integer)
        if not isinstance(reward, numbers) or isinstance(reward, bool) or not np.isfinite(reward):
            advice = "a reward is a finite number: return a float"
            raise ConformanceError(f"{self.name}.step returned the reward {_describe(reward)}; {advice}")
        for flag, value in (("terminated", terminated), ("truncated", truncated)):
            if type(value) is not bool:
                advice = f"{flag} is True or False: return bool({flag})"
                raise ConformanceError(f"{self.name}.step returned {_describe(value)} as {flag}; {advice}")
        if not isinstance(info, dict):
            advice = "info is a dict: return the one from self.env.step"
            raise ConformanceError(f"{self.name}.step returned {_describe(info)} as info; {advice}")
        if REWARD_PARTS in info:
            try:
                read_reward_parts(info)
            except FaultyEnvironmentError as error:
                raise ConformanceError(f"{self.name}.step: {error.message}; {error.hint}") from None

    def _check_inner_steps(self, n_steps: int) -> None:
        if n_steps != 1:
            observed = f"took {n_steps} steps inside" if n_steps else "did not step the environment that it wraps"
            advice = (
                "one step of a wrapper is exactly one step of self.env, and none of self.unwrapped: raw returns, "
                "episode lengths and timesteps are counted there. Call self.env.step(action) once; "
                "a frame skip is right only on purpose"
            )
            raise ConformanceError(f"{self.name}.step {observed}; {advice}")

    def _check_inner_actions(self, actions: list[Any]) -> None:
        for action in actions:
            if not _accepts(self.monitor.action_space, action):
                expected = f"the environment inside takes {self.monitor.action_space}"
                advice = "convert the action, or declare an action_space that contains only valid actions"
                raise ConformanceError(
                    f"{self.name}.step passed on the action {_describe(action)}; {expected}: {advice}"
                )


@contextmanager
def build_harness(config: ResolvedConfig, render_mode: str | None = None) -> Iterator[WrapperHarness]:
    """Build the environment of a config, with its last wrapper as the one under test, or else its last base wrapper.

    :raises ConfigError: if something cannot be built
    :raises ConformanceError: if the wrapper does not wrap the environment that it is given
    """
    components = config.components
    is_base = not components.wrappers
    *other_wrappers, subject = components.base_wrappers if is_base else components.wrappers
    class_name = subject.cls.__name__
    recorder = RecordingBaseLayer if is_base else RecordingMonitor
    built: list[Any] = []

    def build_subject(*arguments: Any, **keyword_arguments: Any) -> Any:
        built.append(subject.cls(*arguments, **keyword_arguments))
        return built[-1]

    wrappers = (
        *other_wrappers,
        BoundComponent(recorder.__name__, (), recorder, {}, config.make_error),
        replace(subject, cls=build_subject),
    )
    layers = (wrappers, ()) if is_base else (components.base_wrappers, wrappers)
    try:
        env = make_env(config, components.env, *layers, render_mode)
    except AttributeError as error:
        raise ConformanceError(
            f"{class_name} cannot be used once it is built: {describe_error(error)}; {_CONSTRUCTOR_ADVICE}"
        ) from error
    try:
        yield WrapperHarness(class_name, env, built[-1], _find_recorder(class_name, built[-1]))
    finally:
        env.unwrapped.close()


def _find_recorder(class_name: str, wrapper: Any) -> RecordingLayer:
    """Return the recording layer inside the wrapper.

    :raises ConformanceError: if the wrapper bypasses it, or is no complete Gymnasium wrapper
    """
    layer = wrapper
    while isinstance(layer, gym.Wrapper) and not isinstance(layer, RecordingLayer):
        layer = layer.env
    if not isinstance(layer, RecordingLayer):
        advice = "the layers in between count raw returns: call super().__init__(env)"
        raise ConformanceError(f"{class_name} wraps {layer} instead of the environment that it is given; {advice}")
    if missing := sorted(vars(gym.Wrapper(layer)).keys() - vars(wrapper).keys()):
        raise ConformanceError(f"{class_name} has no {missing[0]}; {_CONSTRUCTOR_ADVICE}")
    return layer


class ResetLearnedState(gym.Wrapper[Any, Any, Any, Any]):
    """Resets what wrappers learn across episodes at each reset with a seed, so that episodes can be compared.

    Running statistics, for example, would make two episodes with the same seed differ.

    :param env: the outermost wrapper of the comparison
    :param whole_env: the environment that it is part of
    """

    def __init__(self, env: gym.Env[Any, Any], whole_env: ReplayableEpisodes) -> None:
        super().__init__(env)
        self._whole_env = whole_env
        self._initial_states = copy.deepcopy(whole_env.learned_states())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        if seed is not None:
            self._whole_env.load_wrapper_states(copy.deepcopy(self._initial_states))
        return self.env.reset(seed=seed, options=options)


def describe_difference(steps: Sequence[Step], other_steps: Sequence[Step]) -> str:
    """Describe the first difference between two episodes; empty if they are equal."""
    for number, (step, other_step) in enumerate(zip(steps, other_steps, strict=False)):
        for field, value, other_value in zip(Step._fields, step, other_step, strict=True):
            if not data_equivalence(value, other_value, exact=True):
                return f"the {field} of step {number}: {_describe(value)} and {_describe(other_value)}"
    return ""


def _accepts(space: gym.spaces.Space[Any], action: Any) -> bool:
    """Return whether a space contains an action. In a Box, the type of number does not matter."""
    if not isinstance(space, gym.spaces.Box):
        return space.contains(action)
    array = np.asarray(action)
    return array.shape == space.shape and bool(np.all((array >= space.low - 1e-6) & (array <= space.high + 1e-6)))


def _describe_result(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else _describe(result)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        text = np.array2string(value, threshold=8, precision=4)
        return f"{text} of shape {value.shape} and type {value.dtype}"
    return f"{value!r:.200} of type {type(value).__name__}"
