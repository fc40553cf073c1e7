"""Gymnasium's wrappers of batches do to each environment what its wrappers of single ones do."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from toolkit.envs.batch_layers import GYMNASIUM_FORMS, RESET_MASK, select_info
from toolkit.envs.observations import select_row

BOX = spaces.Box(-5, 5, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
DICT = spaces.Dict({"box": BOX, "choice": spaces.Discrete(4)})
CASES: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "ClipReward": (BOX, {"min_reward": -1, "max_reward": 2}),
    "ClipAction": (BOX, {}),
    "RescaleAction": (BOX, {"min_action": np.float32(0), "max_action": np.float32(1)}),
    "DtypeObservation": (BOX, {"dtype": np.float64}),
    "FilterObservation": (DICT, {"filter_keys": ["box"]}),
    "FlattenObservation": (DICT, {}),
    "GrayscaleObservation": (IMAGE, {"keep_dim": True}),
    "RescaleObservation": (BOX, {"min_obs": np.float32(0), "max_obs": np.float32(1)}),
    "ReshapeObservation": (BOX, {"shape": (2, 1)}),
    "ResizeObservation": (IMAGE, {"shape": (4, 4)}),
}


class Sampled(gym.Env):
    """Returns random observations; says in `info` which action it got."""

    action_space = spaces.Box(-2, 3, (2,), np.float32)

    def __init__(self, space: spaces.Space[Any], n_steps: int) -> None:
        self.observation_space, self.n_steps = space, n_steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.number = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.number += 1
        is_last = self.number == self.n_steps
        return self.observation_space.sample(), 3.0 * sum(action), is_last, False, {"action": action.copy()}


@pytest.mark.parametrize("cls", GYMNASIUM_FORMS, ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # Gymnasium's own, of bounds in another dtype
def test_gymnasium_form_equals_single_wrappers(cls: Any) -> None:
    space, params = CASES[cls.__name__]
    lengths = (3, 4, 9)
    singles = [cls(Sampled(copy.deepcopy(space), length), **params) for length in lengths]
    factories = [lambda length=length: Sampled(copy.deepcopy(space), length) for length in lengths]
    batch = GYMNASIUM_FORMS[cls](SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED), **params)
    assert batch.single_action_space == singles[0].action_space
    assert batch.single_observation_space == singles[0].observation_space
    observations, _ = batch.reset(seed=0)
    for index, single in enumerate(singles):
        assert data_equivalence(select_row(observations, index), single.reset(seed=index)[0], exact=True)
    for actions in np.random.default_rng(0).uniform(-6, 6, (10, 3, 2)).astype(np.float32):
        observations, rewards, terminations, truncations, info = batch.step(actions.copy())
        for index, single in enumerate(singles):
            observation, reward, terminated, truncated, own_info = single.step(actions[index].copy())
            assert data_equivalence(select_row(observations, index), observation, exact=True)
            assert (rewards[index], terminations[index], truncations[index]) == (reward, terminated, truncated)
            assert data_equivalence(select_info(info, index), own_info, exact=True)
        if terminations.any():
            observations, _ = batch.reset(options={RESET_MASK: terminations})
            for index in np.flatnonzero(terminations):
                assert data_equivalence(select_row(observations, index), singles[index].reset()[0], exact=True)
