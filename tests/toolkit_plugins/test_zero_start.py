from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from toolkit_plugins.wrappers.zero_start import ZeroStart


class Counted(gym.Env[Any, Any]):
    """Observes what it is told, and returns its action as info."""

    def __init__(self, observation_space: Any, action_space: Any, observation: Any) -> None:
        self.observation_space, self.action_space, self.observation = observation_space, action_space, observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return self.observation, 0.0, False, False, {"action": action}


@pytest.mark.parametrize("first", [-2, 1, 7])
def test_discrete_action_and_observation_count_from_0(first: int) -> None:
    env = ZeroStart(Counted(spaces.Discrete(5, start=first), spaces.Discrete(3, start=first), np.int64(first + 4)))
    assert env.observation_space == spaces.Discrete(5)
    assert env.action_space == spaces.Discrete(3)
    assert env.reset()[0] == 4
    for action in range(3):
        observation, *_, info = env.step(np.int64(action))
        assert env.observation_space.contains(observation)
        assert (observation, info["action"]) == (4, first + action)


def test_each_number_of_multi_discrete_has_its_own_start() -> None:
    action_space = spaces.MultiDiscrete([3, 2], start=[1, -1])
    env = ZeroStart(Counted(spaces.MultiDiscrete([4, 4], start=[2, 0]), action_space, np.array([5, 3])))
    assert env.reset()[0].tolist() == [3, 3]
    assert env.step(np.array([2, 0]))[-1]["action"].tolist() == [3, -1]


def test_only_discrete_parts_of_dict_change() -> None:
    space = spaces.Dict(room=spaces.Discrete(4, start=1), speed=spaces.Box(0, 9, (2,), np.float32))
    speed = np.array([1, 2], np.float32)
    env = ZeroStart(Counted(space, spaces.Discrete(2), {"room": np.int64(4), "speed": speed}))
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert observation["room"] == 3
    assert observation["speed"] is speed
    assert env.step(1)[-1]["action"] == 1
