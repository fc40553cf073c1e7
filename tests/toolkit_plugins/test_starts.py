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

from toolkit_plugins.starts import RandomFirstAction

Env = gym.Env[Any, Any]


class Tape(gym.Env[Any, Any]):
    """Observes the actions of the episode so far; action 2 ends it."""

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


def test_an_episode_starts_after_one_random_action() -> None:
    env = RandomFirstAction(Tape())
    firsts = []
    for _ in range(50):
        observation, info = env.reset()
        assert observation[1:].tolist() == [-1] * 5
        assert info == {"last": observation[0]}
        firsts.append(int(observation[0]))
    assert 10 < sum(firsts) < 40


def test_the_action_is_neither_in_the_return_nor_in_the_length() -> None:
    env = RandomFirstAction(Monitor(Tape()))
    for _ in range(2):
        env.reset()
        steps = [env.step(0) for _ in range(5)]
        *_, truncated, info = steps[-1]
        assert truncated, "the environment's own limit of 6 counts it"
        assert (info["episode"]["r"], info["episode"]["l"]) == (5, 5)


def test_the_actions_follow_from_the_seed() -> None:
    def firsts(seed: int) -> list[float]:
        env = RandomFirstAction(Tape())
        return [env.reset(seed=seed)[0][0], *(env.reset()[0][0] for _ in range(20))]

    assert firsts(3) == firsts(3) != firsts(4)


def test_the_algorithm_s_own_actions_do_not_depend_on_it() -> None:
    space = Tape().action_space
    space.seed(0)
    expected = [space.sample() for _ in range(20)]
    env = RandomFirstAction(Tape())
    env.action_space.seed(0)
    env.reset(seed=5)
    assert [env.action_space.sample() for _ in range(20)] == expected


def test_an_episode_that_the_action_ends_is_started_again() -> None:
    tape = Tape(n_actions=3)
    env = RandomFirstAction(Monitor(tape))
    for _ in range(30):
        assert env.reset()[0][0] in (0, 1)
    assert tape.resets > 30
    env.step(2)
    assert env.env.get_episode_rewards() == [1.0]  # type: ignore[attr-defined]


def test_an_environment_that_every_action_ends_is_refused() -> None:
    with pytest.raises(RuntimeError, match="each of 100 episodes in a row ended with its random first action"):
        RandomFirstAction(Tape(n_actions=1, start=2)).reset()


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*A Box observation space m")
def test_the_environment_checker_of_gymnasium_has_no_complaint() -> None:
    check_env(RandomFirstAction(gym.make("CartPole-v1", disable_env_checker=True)))


def test_cartpole_s_200_steps_leave_the_agent_199(toolkit: Toolkit) -> None:
    Path("run.yaml").write_text(SMALL_CONFIG.replace("wrappers:", "wrappers:\n    - random_first_action"))
    settings = ["--set", "env.max_episode_steps=5", "--set", "timesteps=40"]
    assert toolkit("train", "run.yaml", *settings, "--out", "run").status == 0
    rows = Path("run/monitor.csv").read_text().splitlines()[2:]
    assert {row.split(",")[1] for row in rows} == {"4"}
