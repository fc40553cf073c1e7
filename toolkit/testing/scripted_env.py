"""The layers inside a wrapper under test: one records what the wrapper asks for, one ends episodes as scripted."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

from toolkit.envs.replayable import RawMonitor, TransparentLayer

MARKED_OPTIONS = {"conformance": True}  # reset options that no environment defines


class ScriptedEnd(TransparentLayer):
    """Ends episodes at a chosen step with chosen flags. The environment's own end is the latest possible step.

    :ivar flags: terminated and truncated at the end, both False before; None leaves the environment's own
    :ivar end_step: the step of the end, from 1
    :ivar n_steps: steps in this episode so far
    :ivar has_ended: whether the last step was the end
    """

    flags: tuple[bool, bool] | None = None
    end_step = 0
    n_steps = 0
    has_ended = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, without :data:`MARKED_OPTIONS`."""
        self.n_steps, self.has_ended = 0, False
        return self.env.reset(**{name: value for name, value in kwargs.items() if value != MARKED_OPTIONS})

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and replace its end by the scripted one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.n_steps += 1
        if self.flags is not None:
            self.has_ended = terminated or truncated or self.n_steps >= self.end_step
            terminated, truncated = self.flags if self.has_ended else (False, False)
        return observation, reward, terminated, truncated, info


class RecordingLayer(gym.Wrapper[Any, Any, Any, Any]):
    """Stands directly inside the wrapper under test and records the wrapper's calls.

    :ivar needs_reset: whether an episode has ended, if it is a Monitor
    :ivar script: ends the episodes
    :ivar reset_arguments: keyword arguments of every reset
    :ivar actions: action of every step
    :ivar is_closed: whether the wrapper has called ``close``
    """

    needs_reset = False

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.script = ScriptedEnd(env)
        super().__init__(self.script)
        self.reset_arguments: list[dict[str, Any]] = []
        self.actions: list[Any] = []
        self.is_closed = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        self.reset_arguments.append(kwargs)
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        self.actions.append(action)
        return super().step(action)

    def close(self) -> None:
        """Record the call. The harness closes the environment at the end of the check."""
        self.is_closed = True


class RecordingMonitor(RecordingLayer, RawMonitor):
    """Replaces Monitor inside a wrapper that stands outside it."""


class RecordingBaseLayer(RecordingLayer, TransparentLayer):
    """Stands between a base wrapper and the environment, which the wrapper does not notice."""
