from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.env_util import make_vec_env

from toolkit_plugins.masks import InfoActionMask


class Referee(gym.Wrapper[Any, Any, Any, Any]):
    """Takes down whether each action was valid by the mask that Taxi gave before it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.verdicts: list[bool] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.valid = info["action_mask"].copy()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.verdicts.append(bool(self.valid[action]))
        result = self.env.step(action)
        self.valid = result[-1]["action_mask"].copy()
        return result


class LosesItsMask(gym.Wrapper[Any, Any, Any, Any]):
    """Gives a mask at reset alone."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}


def test_the_mask_is_the_one_that_the_last_reset_or_step_gave() -> None:
    env = InfoActionMask(gym.make("Taxi-v4"))
    masks = []
    _, info = env.reset(seed=0)
    for _ in range(50):
        masks.append(env.action_masks())
        assert masks[-1].dtype == np.bool_
        assert masks[-1].tolist() == info["action_mask"].astype(bool).tolist()
        info = env.step(int(np.flatnonzero(masks[-1])[-1]))[-1]
    env.reset(seed=1)
    assert len({tuple(mask) for mask in masks}) > 1


def test_all_else_is_the_environments_own() -> None:
    plain, wrapped = gym.make("Taxi-v4"), InfoActionMask(gym.make("Taxi-v4"))
    for call in [lambda env: env.reset(seed=0), *[lambda env: env.step(0)] * 5]:
        expected, result = call(plain), call(wrapped)
        assert result[:-1] == expected[:-1]
        assert result[-1].keys() == expected[-1].keys()


@pytest.mark.parametrize("n_envs", [1, 2])
def test_maskable_ppo_only_takes_valid_actions(n_envs: int) -> None:
    env = make_vec_env("Taxi-v4", n_envs, seed=0, wrapper_class=lambda one: InfoActionMask(Referee(one)))
    MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0).learn(256)
    verdicts = [verdict for each in env.get_attr("verdicts") for verdict in each]
    assert len(verdicts) == 256
    assert all(verdicts)


def test_an_agent_that_knows_no_mask_takes_invalid_actions_here() -> None:
    env = Referee(gym.make("Taxi-v4"))
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(50):
        env.step(env.action_space.sample())
    assert not all(env.verdicts)


def test_maskable_ppo_sees_that_the_environment_has_masks() -> None:
    assert is_masking_supported(InfoActionMask(gym.make("Taxi-v4")))


def test_an_environment_that_gives_no_mask_is_refused_at_its_reset() -> None:
    with pytest.raises(ValueError, match=r"gives no info\['action_mask'\]"):
        InfoActionMask(gym.make("CartPole-v1")).reset()


def test_an_environment_that_gives_no_mask_is_refused_at_its_step() -> None:
    env = InfoActionMask(LosesItsMask(gym.make("Taxi-v4")))
    env.reset()
    with pytest.raises(ValueError, match=r"gives no info\['action_mask'\]"):
        env.step(0)


def test_there_is_no_mask_before_the_first_reset() -> None:
    with pytest.raises(ValueError, match="before the first reset"):
        InfoActionMask(gym.make("Taxi-v4")).action_masks()


def test_the_spec_makes_the_same_environment_again() -> None:
    env = InfoActionMask(gym.make("Taxi-v4"))
    assert env.spec is not None
    assert type(gym.make(env.spec)) is InfoActionMask
