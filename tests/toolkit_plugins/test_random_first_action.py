from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from support import SMALL_CONFIG, Toolkit

from toolkit_plugins.wrappers.random_first_action import RandomFirstAction

Env = gym.Env[Any, Any]


class ActionLog(gym.Env[Any, Any]):
    """Observe the actions of the episode so far; action 2 ends it."""

    observation_space = spaces.Box(-1, 2, (6,), np.float32)

    def __init__(self, n_actions: int = 2, start: int = 0) -> None:
        self.action_space = spaces.Discrete(n_actions, start=start)
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions: list[int] = []
        self.resets += 1
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(int(action))
        return self._observation(), 1.0, action == 2, len(self.actions) == 6, {"last": int(action)}

    def _observation(self) -> Any:
        return np.array((self.actions + [-1] * 6)[:6], np.float32)


def test_episode_starts_after_one_random_action() -> None:
    env = RandomFirstAction(ActionLog())
    first_actions = []
    for _ in range(50):
        observation, info = env.reset()
        assert observation[1:].tolist() == [-1] * 5
        assert info == {"last": observation[0]}
        first_actions.append(int(observation[0]))
    assert 10 < sum(first_actions) < 40


def test_return_and_length_do_not_count_the_action() -> None:
    env = RandomFirstAction(Monitor(ActionLog()))
    for _ in range(2):
        env.reset()
        steps = [env.step(0) for _ in range(5)]
        *_, truncated, info = steps[-1]
        assert truncated, "the environment's own limit of 6 steps counts the action"
        assert (info["episode"]["r"], info["episode"]["l"]) == (5, 5)


def test_seed_decides_the_actions() -> None:
    def first_actions(seed: int) -> list[float]:
        env = RandomFirstAction(ActionLog())
        return [env.reset(seed=seed)[0][0], *(env.reset()[0][0] for _ in range(20))]

    assert first_actions(3) == first_actions(3) != first_actions(4)


def test_action_space_of_algorithm_is_not_drawn_from() -> None:
    space = ActionLog().action_space
    space.seed(0)
    expected = [space.sample() for _ in range(20)]
    env = RandomFirstAction(ActionLog())
    env.action_space.seed(0)
    env.reset(seed=5)
    assert [env.action_space.sample() for _ in range(20)] == expected


def test_episode_ended_by_the_action_starts_again() -> None:
    action_log = ActionLog(n_actions=3)
    env = RandomFirstAction(Monitor(action_log))
    for _ in range(30):
        assert env.reset()[0][0] in (0, 1)
    assert action_log.resets > 30
    env.step(2)
    assert env.env.get_episode_rewards() == [1.0]  # type: ignore[attr-defined]


def test_environment_that_every_action_ends_raises() -> None:
    with pytest.raises(RuntimeError, match="100 episodes in a row ended with their random first action"):
        RandomFirstAction(ActionLog(n_actions=1, start=2)).reset()


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*A Box observation space m")
def test_gymnasium_environment_checker_passes() -> None:
    check_env(RandomFirstAction(gym.make("CartPole-v1", disable_env_checker=True)))


def test_time_limit_counts_the_random_action(toolkit: Toolkit) -> None:
    Path("run.yaml").write_text(SMALL_CONFIG.replace("wrappers:", "wrappers:\n    - random_first_action"))
    settings = ["--set", "env.max_episode_steps=5", "--set", "timesteps=40"]
    assert toolkit("train", "run.yaml", *settings, "--out", "run").status == 0
    rows = Path("run/monitor.csv").read_text().splitlines()[2:]
    assert {row.split(",")[1] for row in rows} == {"4"}
