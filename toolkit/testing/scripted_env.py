"""What stands right inside a wrapper: notes what the wrapper asks for, and ends episodes as a check needs it."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

from toolkit.envs.replayable import RawMonitor

MARK = {"conformance": True}  # options that no environment knows


class Script(gym.Wrapper[Any, Any, Any, Any]):
    """Ends episodes as it is told, or not at all; the environment's own end is the last step at which it does.

    :ivar ends: terminated and truncated at the end, and both False before; None for the environment's own
    :ivar ends_at: the 1-based step of the end
    :ivar steps: how many there were in this episode
    :ivar ended: whether the last of them was the end
    """

    ends: tuple[bool, bool] | None = None
    ends_at = 0
    steps = 0
    ended = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, which does not see :data:`MARK`."""
        self.steps, self.ended = 0, False
        return self.env.reset(**{name: value for name, value in kwargs.items() if value != MARK})

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.ends is not None:
            self.ended = terminated or truncated or self.steps >= self.ends_at
            terminated, truncated = self.ends if self.ended else (False, False)
        return observation, reward, terminated, truncated, info


class Inside(RawMonitor):
    """Stands right inside a wrapper, in Monitor's place, and notes what the wrapper asks for.

    :ivar asked: the keyword arguments of every reset
    :ivar actions: of every step
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.script = Script(env)
        super().__init__(self.script)
        self.asked: list[dict[str, Any]] = []
        self.actions: list[Any] = []
        self.closed = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        self.asked.append(kwargs)
        return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        self.actions.append(action)
        return super().step(action)

    def close(self) -> None:
        """Note that it was asked for; the environment is closed at the end of the check."""
        self.closed = True
