"""EnvPool's environments as a batch; a stub stands in for the package of 800 MB."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode


class StubPool:
    """Counts steps, as EnvPool returns them: its arrays are its own, and `info` numbers the environments."""

    action_space = spaces.Discrete(2)

    def __init__(self, task_id: str, *, seed: int, num_envs: int, **options: Any) -> None:
        self.task_id, self.seed, self.num_envs, self.options = task_id, seed, num_envs, options
        self.observation_space = options.pop("space", spaces.Box(-99, 99, (2,), np.float32))
        self.observations = np.zeros((num_envs, 2), np.float32)
        self.is_closed = False
        self.steps = np.zeros(num_envs, int)

    def reset(self, ids: Any = None) -> tuple[Any, dict[str, Any]]:
        ids = np.arange(self.num_envs) if ids is None else ids[::-1]  # in the order in which threads finish
        self.steps[ids] = 0
        return self._observe(ids)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps += 1
        observations, info = self._observe(np.arange(self.num_envs))
        info |= {"elapsed_step": self.steps, "players": {}, "speed": 2.0 * self.steps}
        no_end = np.zeros(self.num_envs, bool)
        return observations, np.asarray(actions, np.float32), self.steps >= 3, no_end, info

    def close(self) -> None:
        self.is_closed = True

    def _observe(self, ids: Any) -> tuple[Any, dict[str, Any]]:
        self.observations[ids] = np.stack([ids + self.seed, self.steps[ids]], 1)
        return self.observations[ids] if len(ids) < self.num_envs else self.observations, {"env_id": ids}


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[StubPool]:
    """Install the stub; return the pools that it makes."""
    made: list[StubPool] = []

    def make_gymnasium(*args: Any, **kwargs: Any) -> StubPool:
        made.append(StubPool(*args, **kwargs))
        return made[-1]

    stub = ModuleType("envpool")
    stub.make_gymnasium = make_gymnasium  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "envpool", stub)
    monkeypatch.delitem(sys.modules, "toolkit_plugins.envpool_batch", raising=False)
    return made


def make_batch(**params: Any) -> Any:
    from toolkit_plugins.envpool_batch import EnvPoolBatch

    return EnvPoolBatch("Walk-v0", 3, **params)


def test_pool_gets_task_limit_and_params(pools: list[StubPool]) -> None:
    batch = make_batch(max_episode_steps=7, ctrl_cost_weight=0.2)
    assert (pools[0].task_id, pools[0].options) == ("Walk-v0", {"max_episode_steps": 7, "ctrl_cost_weight": 0.2})
    assert batch.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert (batch.observation_space.shape, batch.action_space.shape) == ((3, 2), (3,))
    make_batch()
    assert pools[1].options == {}


def test_seed_makes_environments_anew(pools: list[StubPool]) -> None:
    batch = make_batch()
    first, _ = batch.reset(seed=5)
    assert ([pool.seed for pool in pools], [pool.is_closed for pool in pools]) == ([0, 5], [True, False])
    again, _ = batch.reset(seed=5)
    assert (first == again).all()
    batch.reset()
    batch.reset(seed=2**31 + 4)  # EnvPool's seeds are signed 32-bit integers
    assert [pool.seed for pool in pools] == [0, 5, 5, 4]
    batch.close()
    assert all(pool.is_closed for pool in pools)


def test_mask_resets_its_environments_alone(pools: list[StubPool]) -> None:
    batch = make_batch()
    first, _ = batch.reset(seed=10)
    for _ in range(2):
        last, rewards, terminations, truncations, info = batch.step(np.array([0, 1, 1]))
    assert first.tolist() == [[10, 0], [11, 0], [12, 0]]
    assert ([*rewards], terminations.any(), truncations.any()) == ([0, 1, 1], False, False)
    assert [[*info], [*info["speed"]]] == [["speed"], [4, 4, 4]]
    started, info = batch.reset(options={"reset_mask": np.array([True, False, True])})
    assert (started.tolist(), info) == ([[10, 0], [11, 2], [12, 0]], {})
    assert last.tolist() == [[10, 2], [11, 2], [12, 2]], "the last observations of ended episodes stay"
    stepped, _, terminations, _, _ = batch.step(np.zeros(3, int))
    assert (stepped.tolist(), terminations.tolist()) == ([[10, 1], [11, 3], [12, 1]], [False, True, False])
    assert started.tolist() == [[10, 0], [11, 2], [12, 0]]


def test_observations_of_several_arrays_are_refused(pools: list[StubPool]) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1), "b": spaces.Box(-1, 1)})
    with pytest.raises(TypeError, match="observations in one array are needed, not Dict"):
        make_batch(space=space)
    assert pools[0].is_closed
