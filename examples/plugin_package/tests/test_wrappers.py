"""Potential-based shaping."""

import gymnasium as gym
import numpy as np
import pytest
from toolkit.testing import check_wrapper

from cartpole_extras.wrappers import PolePotential


def test_it_conforms_to_the_toolkit() -> None:
    check_wrapper("pole_potential", params={"weight": 2.0, "gamma": 0.9})


def discounted(rewards: list[float], gamma: float) -> float:
    return sum(reward * gamma**step for step, reward in enumerate(rewards))


@pytest.mark.parametrize(("limit", "terminates"), [(500, True), (5, False)])
def test_an_episode_is_worth_what_it_was_but_for_its_first_and_last_potential(limit: int, terminates: bool) -> None:
    gamma, weight = 0.9, 2.0
    raw = gym.make("CartPole-v1", max_episode_steps=limit)
    shaped = PolePotential(gym.make("CartPole-v1", max_episode_steps=limit), weight, gamma)
    for seed in range(3):  # also after the first episode
        raw.reset(seed=seed)
        first, _ = shaped.reset(seed=seed)
        rewards, shaped_rewards, ended = [], [], False
        while not ended:
            rewards.append(float(raw.step(0)[1]))
            last, reward, terminated, truncated, _ = shaped.step(0)
            shaped_rewards.append(float(reward))
            ended = terminated or truncated
        assert terminated is terminates
        at_first, at_last = (weight * (1 - abs(float(one[2])) / 0.2095) for one in (first, last))
        gained = (0.0 if terminates else gamma ** len(rewards) * at_last) - at_first
        assert discounted(shaped_rewards, gamma) == pytest.approx(discounted(rewards, gamma) + gained)


def test_righting_the_pole_is_rewarded() -> None:
    env = PolePotential(gym.make("CartPole-v1"), weight=1.0, gamma=1.0)
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.0, 0.0, 0.1, -1.0])  # type: ignore[attr-defined] # leans right, turns left
    env.step(0)  # from here on the potential is that of this state
    assert float(env.step(1)[1]) > 1.0


@pytest.mark.parametrize(
    ("env_id", "gamma", "message"),
    [("CartPole-v1", 1.1, "gamma must be from 0 to 1"), ("Acrobot-v1", 0.99, "CartPole")],
)
def test_what_does_not_fit_is_refused(env_id: str, gamma: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolePotential(gym.make(env_id), gamma=gamma)
