from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.env_util import make_vec_env

from toolkit_plugins.wrappers.action_mask import InfoActionMask


class RecordValidity(gym.Wrapper[Any, Any, Any, Any]):
    """Record whether Taxi's mask allowed each action."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.validity: list[bool] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.mask = info["action_mask"].copy()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.validity.append(bool(self.mask[action]))
        result = self.env.step(action)
        self.mask = result[-1]["action_mask"].copy()
        return result


class MaskAtResetOnly(gym.Wrapper[Any, Any, Any, Any]):
    """Give a mask at reset but not at a step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}


def test_mask_comes_from_last_reset_or_step() -> None:
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


def test_wrapper_changes_nothing_else() -> None:
    plain, wrapped = gym.make("Taxi-v4"), InfoActionMask(gym.make("Taxi-v4"))
    for call in [lambda env: env.reset(seed=0), *[lambda env: env.step(0)] * 5]:
        expected, result = call(plain), call(wrapped)
        assert result[:-1] == expected[:-1]
        assert result[-1].keys() == expected[-1].keys()


def test_maskable_ppo_takes_only_valid_actions() -> None:
    env = make_vec_env("Taxi-v4", 2, seed=0, wrapper_class=lambda inner: InfoActionMask(RecordValidity(inner)))
    MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0).learn(256)
    validity = np.concatenate(env.get_attr("validity"))
    assert len(validity) == 256
    assert validity.all()


def test_random_agent_takes_invalid_actions() -> None:
    env = RecordValidity(gym.make("Taxi-v4"))
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(50):
        env.step(env.action_space.sample())
    assert not all(env.validity)


def test_maskable_ppo_finds_masks() -> None:
    assert is_masking_supported(InfoActionMask(gym.make("Taxi-v4")))


def test_reset_without_mask_raises() -> None:
    with pytest.raises(ValueError, match=r"gives no info\['action_mask'\]"):
        InfoActionMask(gym.make("CartPole-v1")).reset()


def test_step_without_mask_raises() -> None:
    env = InfoActionMask(MaskAtResetOnly(gym.make("Taxi-v4")))
    env.reset()
    with pytest.raises(ValueError, match=r"gives no info\['action_mask'\]"):
        env.step(0)


def test_mask_before_first_reset_raises() -> None:
    with pytest.raises(ValueError, match="before the first reset"):
        InfoActionMask(gym.make("Taxi-v4")).action_masks()


def test_spec_recreates_wrapper() -> None:
    env = InfoActionMask(gym.make("Taxi-v4"))
    assert env.spec is not None
    assert type(gym.make(env.spec)) is InfoActionMask
