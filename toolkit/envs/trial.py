"""A trial of a config's environment: random steps before training, to see whether it keeps Gymnasium's interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from toolkit.config.load import ResolvedConfig
from toolkit.envs.episode_numbers import EpisodeNumbers
from toolkit.envs.episodes import read_is_success, require_finite
from toolkit.envs.factory import accepts_infinity, derived_seed, make_env
from toolkit.envs.spaces import find_unusual_spaces, sample_allowed
from toolkit.utils.attributes import suggest_base_wrappers
from toolkit.utils.errors import ConfigError, FaultyEnvironmentError, Problem, ToolkitError, describe_error

_N_STEPS = 100


def try_environment(config: ResolvedConfig, numbers: EpisodeNumbers | None = None) -> list[Problem]:
    """Play 100 random steps in one environment with its wrappers.

    :param numbers: what callbacks log of the steps, if they do
    :return: what it returns against its spaces, and what is unusual in these; SB3 accepts it
    :raises ConfigError: if it raises an error, or returns what training refuses
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")  # its checker says the same in other words
        env = make_env(config, config.components.env, config.components.base_wrappers, config.components.wrappers)
        trial = _Trial(env, config, numbers.for_one_env() if numbers else None)
        try:
            trial.play()
        finally:
            env.close()
    return [*find_unusual_spaces(env, config), *trial.warnings.values(), *trial.find_absent_info()]


class _Trial:
    def __init__(self, env: gym.Env[Any, Any], config: ResolvedConfig, numbers: EpisodeNumbers | None) -> None:
        self._env, self._config, self._numbers = env, config, numbers
        self._info_keys: set[str] = set()
        self._has_ended = False
        self.warnings: dict[str, Problem] = {}

    def play(self) -> None:
        env = self._env
        env.action_space.seed(0)
        self._reset(derived_seed(self._config.seed, "training"))
        for number in range(1, _N_STEPS + 1):
            action = self._sample_action()
            with self._report_errors(f"fails at step {number}, with action {action}"):
                observation, reward, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    read_is_success(info)
                self._add_numbers(info)
            self._check_observation(observation)
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                if not isinstance(flag, bool | np.bool_):
                    self._warn(f"returns {name} as {type(flag).__name__}, not bool")
            if not math.isfinite(reward):
                raise self._make_error(f"returns a reward of {reward}", "correct it, or its wrappers")
            if terminated or truncated:
                self._has_ended = True
                self._reset()

    def _add_numbers(self, info: dict[str, Any]) -> None:
        if self._numbers is not None:
            self._info_keys |= {key for key in info if isinstance(key, str)}
            self._numbers.add_step([info])

    def find_absent_info(self) -> list[Problem]:
        """Return a problem for each number of ``info`` that a callback logs and no step had."""
        return [] if self._numbers is None else self._numbers.find_absent_info(self._info_keys, self._has_ended)

    def _reset(self, seed: int | None = None) -> None:
        hint = "" if self._config.env.reset_options else "set env.reset_options if it needs options"
        with self._report_errors("fails at a reset", hint):
            observation, _ = self._env.reset(seed=seed)
        self._check_observation(observation)

    def _sample_action(self) -> Any:
        """Return a random action, one that ``action_masks()`` allows if the environment has it."""
        space = self._env.action_space
        if not self._env.has_wrapper_attr("action_masks"):
            return space.sample()
        with self._report_errors("fails at action_masks()"):
            return sample_allowed(space, self._env.get_wrapper_attr("action_masks")())

    def _check_observation(self, observation: Any) -> None:
        space = self._env.observation_space
        parts = {"": (space, observation)}
        if isinstance(space, gym.spaces.Dict):
            parts = {f" in {key!r}": (part, observation[key]) for key, part in space.spaces.items()}
        for place, (part, values) in parts.items():
            if isinstance(part, gym.spaces.Box):
                self._check_bounds(np.asarray(values).reshape(part.shape), part, place)
            elif not part.contains(np.asarray(values)):
                hint = "correct it, or its wrappers"
                raise self._make_error(f"returns an observation outside its space{place}: {values}, not {part}", hint)

    def _check_bounds(self, array: NDArray[Any], space: gym.spaces.Box, place: str) -> None:
        try:
            require_finite(array, "observations", accepts_infinity(self._config))
        except FaultyEnvironmentError as error:
            raise self._make_error(f"cannot be trained in: {error.message}{place}", error.hint) from error
        is_outside = (array < space.low) | (array > space.high)
        if is_outside.any():
            index = tuple(int(axis[0]) for axis in np.nonzero(is_outside))
            bounds = f"{space.low[index]:g} to {space.high[index]:g}"
            self._warn(f"returns observations outside their space: {array[index]:g}{place}, not {bounds}")

    def _warn(self, message: str) -> None:
        self.warnings.setdefault(message.partition(":")[0], self._make_problem(message, "correct it, or its space"))

    def _make_problem(self, message: str, hint: str) -> Problem:
        return Problem(("env",), f"'{self._config.env.name}' {message}", hint)

    def _make_error(self, message: str, hint: str) -> ToolkitError:
        return self._config.make_error([self._make_problem(message, hint)])

    @contextmanager
    def _report_errors(self, what: str, hint: str = "") -> Iterator[None]:
        try:
            yield
        except FaultyEnvironmentError as error:
            raise self._make_error(f"cannot be trained in: {error.message}", error.hint) from error
        except ConfigError:
            raise
        except Exception as error:  # an environment can raise anything
            hint = suggest_base_wrappers(error) or hint
            raise self._make_error(f"{what}: {describe_error(error)}", hint) from error
