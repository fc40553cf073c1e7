"""What an environment returned in the running episode, small enough to keep: a replay is compared with it."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple, SupportsFloat
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_TERMINATED, _TRUNCATED = 1, 2
# parts of a trace as plain data, and what their entries are for a user
_PARTS = {
    "rewards": ("reward", np.float64),
    "ends": ("end of the episode", np.uint8),
    "observations": ("observation", np.uint32),
}


class Difference(NamedTuple):
    """The first difference between an episode and its replay.

    :ivar step: number of the agent's step, from 1; 0 for the reset
    :ivar description: what differs, as "reward 0.5, was 1.0"
    """

    step: int
    description: str


class EpisodeTrace:
    """Checksums of observations, rewards and ends since a reset.

    :param observation: the observation of the reset
    """

    def __init__(self, observation: Any) -> None:
        self._observations = array("I", [checksum(observation)])
        self._rewards = array("d")
        self._ends: dict[int, int] = {}  # by the number of the step; most steps end nothing
        self._later_resets = array("I")

    def add_reset(self, observation: Any) -> None:
        """Add a reset that the environment itself does not see."""
        self._later_resets.append(checksum(observation))

    def add_step(self, observation: Any, reward: SupportsFloat, terminated: Any, truncated: Any) -> None:
        """Add a step. This happens at every step, so it costs as little as possible."""
        self._observations.append(checksum(observation))
        self._rewards.append(reward)  # type: ignore[arg-type]  # what has __float__
        if terminated or truncated:
            self._ends[len(self._rewards)] = (_TERMINATED if terminated else 0) + (_TRUNCATED if truncated else 0)

    @property
    def last_reward(self) -> float:
        """The reward of the last step; 0 before it."""
        return self._rewards[-1] if self._rewards else 0.0

    def to_data(self) -> dict[str, Any]:
        """Return the trace as plain data."""
        return {
            "observations": np.array(self._observations, np.uint32),
            "later_resets": np.array(self._later_resets, np.uint32),
            "rewards": np.array(self._rewards, np.float64),
            "ends": np.array([self._ends.get(step, 0) for step in range(1, len(self._rewards) + 1)], np.uint8),
        }

    def find_difference(self, saved_trace: dict[str, Any]) -> Difference | None:
        """Return the first difference from the trace that :meth:`to_data` returned before; None if they are equal.

        :raises ValueError: if it is no trace of as many steps
        """
        trace = self.to_data()
        differences = []
        for name, (noun, kind) in _PARTS.items():
            index = _find_first_difference(trace[name], saved_trace[name], kind)
            if index is not None:
                values = f" {trace[name][index]:g}, was {saved_trace[name][index]:g}" if name == "rewards" else ""
                step = index + (0 if name == "observations" else 1)
                differences.append(Difference(step, f"{noun}{values}" if values else f"another {noun}"))
        if not differences and not np.array_equal(trace["later_resets"], saved_trace["later_resets"]):
            return Difference(len(self._rewards), "another observation of a reset")
        return min(differences, default=None, key=lambda difference: difference.step)


def find_reward_difference(rewards: list[float], saved_rewards: NDArray[np.float64]) -> Difference | None:
    """Return the first difference between an environment's own rewards in an episode, before the wrappers."""
    values = np.array(rewards, np.float64)
    if len(values) != len(saved_rewards):
        return Difference(len(values), f"the environment has made {len(values)} steps, not {len(saved_rewards)}")
    index = _find_first_difference(values, saved_rewards, np.float64)
    if index is None:
        return None
    return Difference(index + 1, f"raw reward {values[index]:g}, was {saved_rewards[index]:g}")


def checksum(value: Any, start: int = 0) -> int:
    """Return a checksum of an observation: of numbers, arrays, and containers of these.

    :param start: checksum of what comes before
    """
    if isinstance(value, np.ndarray):
        try:
            return crc32(value, start)  # type: ignore[arg-type]  # it is a buffer
        except ValueError:  # it is not contiguous, or holds no numbers
            return start if value.dtype.hasobject else crc32(value.tobytes(), start)
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            start = checksum(item, crc32(str(key).encode(), start))
        return start
    is_plain = isinstance(value, bool | int | float | str | np.generic)
    return crc32(repr(value).encode(), start) if is_plain else start


def _find_first_difference(values: NDArray[Any], saved_values: Any, kind: type[Any]) -> int | None:
    if getattr(saved_values, "dtype", None) != kind or saved_values.shape != values.shape:
        raise ValueError("its episode has another number of steps than actions")
    bits = [array.view(np.uint64) if kind is np.float64 else array for array in (values, saved_values)]  # for NaN
    different = np.flatnonzero(bits[0] != bits[1])
    return int(different[0]) if different.size else None
