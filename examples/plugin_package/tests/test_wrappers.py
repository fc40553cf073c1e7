"""PolePotential."""

import gymnasium as gym
import numpy as np
import pytest
from toolkit.testing import check_wrapper

from cartpole_extras.wrappers import PolePotential


def test_pole_potential_passes_conformance_check() -> None:
    check_wrapper("pole_potential", params={"weight": 2.0, "gamma": 0.9})


def discount(rewards: list[float], gamma: float) -> float:
    return sum(reward * gamma**step for step, reward in enumerate(rewards))


@pytest.mark.parametrize(("limit", "terminates"), [(500, True), (5, False)])
def test_shaping_adds_only_first_and_last_potential_to_return(limit: int, terminates: bool) -> None:
    gamma, weight = 0.9, 2.0
    raw = gym.make("CartPole-v1", max_episode_steps=limit)
    shaped = PolePotential(gym.make("CartPole-v1", max_episode_steps=limit), weight, gamma)
    for seed in range(3):
        raw.reset(seed=seed)
        first, _ = shaped.reset(seed=seed)
        rewards, shaped_rewards, has_ended = [], [], False
        while not has_ended:
            rewards.append(float(raw.step(0)[1]))
            last, reward, terminated, truncated, _ = shaped.step(0)
            shaped_rewards.append(float(reward))
            has_ended = terminated or truncated
        assert terminated is terminates
        first_potential, last_potential = (
            weight * (1 - abs(float(observation[2])) / 0.2095) for observation in (first, last)
        )
        gain = (0.0 if terminates else gamma ** len(rewards) * last_potential) - first_potential
        assert discount(shaped_rewards, gamma) == pytest.approx(discount(rewards, gamma) + gain)


def test_righting_the_pole_is_rewarded() -> None:
    env = PolePotential(gym.make("CartPole-v1"), weight=1.0, gamma=1.0)
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.0, 0.0, 0.1, -1.0])  # type: ignore[attr-defined] # leans right, turns left
    env.step(0)  # sets the potential to that of this state
    assert float(env.step(1)[1]) > 1.0


@pytest.mark.parametrize(
    ("env_id", "gamma", "message"),
    [("CartPole-v1", 1.1, "gamma must be from 0 to 1"), ("Acrobot-v1", 0.99, "CartPole")],
)
def test_bad_gamma_or_env_is_refused(env_id: str, gamma: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolePotential(gym.make(env_id), gamma=gamma)
