"""Notice that copies of an environment play the same episodes though their seeds differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

_N_FIRST_STEPS = 20
_TOLERANCE = 1e-4


class PlayedSteps(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps a digest of all actions, observations and rewards, and the numbers of the first steps."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._digest = hashlib.blake2b(digest_size=16)
        self._first_steps: list[NDArray[np.float64]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and note the observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._note(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and note action, observation and reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._note((action, observation, float(reward)))
        return observation, reward, terminated, truncated, info

    def summarize_steps(self) -> tuple[bytes, list[NDArray[np.float64]]]:
        """Return the digest of all steps, and the numbers of each of the first ones."""
        return self._digest.digest(), self._first_steps

    def _note(self, values: Any) -> None:
        parts = [*_iterate_arrays(values)]
        for part in parts:
            self._digest.update(part.tobytes())
        if len(self._first_steps) < _N_FIRST_STEPS:
            self._first_steps.append(np.concatenate([part.astype(np.float64).ravel() for part in parts]))


def are_copies_equal(venv: VecEnv) -> bool:
    """Return whether several environments, each in a :class:`PlayedSteps`, have all played the same steps.

    Networks round continuous actions differently from row to row of a batch. So equal environments that take such
    actions may differ in the last digits after their first observation.
    """
    (digest, first_steps), *others = venv.env_method("summarize_steps")
    if not others or all(digest == other for other, _ in others):
        return bool(others)
    return isinstance(venv.action_space, gym.spaces.Box) and all(_are_close(first_steps, other) for _, other in others)


def _are_close(steps: list[NDArray[np.float64]], other_steps: list[NDArray[np.float64]]) -> bool:
    return np.array_equal(steps[0], other_steps[0]) and all(
        np.allclose(step, other, _TOLERANCE, _TOLERANCE) for step, other in zip(steps, other_steps, strict=True)
    )


def _iterate_arrays(values: Any) -> Iterator[NDArray[Any]]:
    """Yield the arrays of an observation or action, whatever its space; a text becomes its characters."""
    if isinstance(values, dict):
        values = [values[key] for key in sorted(values)]
    if isinstance(values, list | tuple):
        for part in values:
            yield from _iterate_arrays(part)
        return
    array = np.asarray(values)
    yield array if array.dtype.kind in "biuf" else np.frombuffer(repr(values).encode(), np.uint8)
