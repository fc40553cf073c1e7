"""check_replay_buffer passes replay buffers that keep their promises, and names what others break."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from goal_line import GOAL_LINE
from stable_baselines3.common.buffers import ReplayBuffer

from toolkit.testing import ConformanceError, check_replay_buffer
from toolkit.utils.errors import ConfigError


class Prioritized(ReplayBuffer):
    """Draws steps by a priority, which falls from step to step."""

    def __init__(self, *args: Any, exponent: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert not self.optimize_memory_usage, "the oldest step has a priority too"
        self.exponent = exponent
        self.priorities = np.zeros(self.buffer_size)
        self.highest = 1.0

    def add(self, *args: Any) -> None:
        self.priorities[self.pos] = self.highest
        self.highest *= 0.99
        super().add(*args)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        weights = self.priorities[: self.size()] ** self.exponent
        return self._get_samples(np.random.choice(self.size(), batch_size, p=weights / weights.sum()), env)


class Unsaved(Prioritized):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Locked(ReplayBuffer):
    def add(self, *args: Any) -> None:
        super().add(*args)
        self.lock = threading.Lock()


class WithoutLast(ReplayBuffer):
    """Forgets, to save memory, that the oldest observation is overwritten."""

    def sample(self, batch_size: int, env: Any = None) -> Any:
        if self.optimize_memory_usage:
            return self._get_samples(np.full(batch_size, self.pos), env)
        return super().sample(batch_size, env)


class FlatRewards(ReplayBuffer):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        batch = super().sample(batch_size, env)
        return batch._replace(rewards=batch.rewards.flatten())


class MixedRows(ReplayBuffer):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        batch = super().sample(batch_size, env)
        return batch._replace(observations=batch.observations.flip(0))


class OwnGenerator(Prioritized):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        return self._get_samples(np.random.default_rng().integers(self.size(), size=batch_size), env)


class Larger(ReplayBuffer):
    def __init__(self, buffer_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(2 * buffer_size, *args, **kwargs)


class Uncounted(ReplayBuffer):
    def size(self) -> int:
        return self.pos


class EveryEndTerminal(ReplayBuffer):
    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        super().add(obs, next_obs, action, reward, done, [{} for _ in infos])


class NeverNormalized(ReplayBuffer):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        return super().sample(batch_size)


def test_check_passes_buffer_with_state_of_its_own() -> None:
    check_replay_buffer(Prioritized, params={"exponent": 1.0})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Unsaved, "a run that crashed and resumed has different weights"),
        (Locked, "lock cannot be saved, so a run could not be resumed exactly"),
        (WithoutLast, "with optimize_memory_usage.sample has an observation and action that it does not hold"),
        (FlatRewards, r"rewards have shape \(64,\)"),
        (MixedRows, "an observation and action that it does not hold"),
        (EveryEndTerminal, "dones are 1 where a time limit ended an episode"),
        (NeverNormalized, "does not normalize observations by its argument env"),
        (OwnGenerator, "the same seed trained different weights"),
        (Larger, "has room for 480 steps of 1 environments"),
        (Uncounted, r"size\(\) is 0 with 240 stored steps"),
    ],
)
def test_check_names_promise_that_buffer_breaks(cls: type[ReplayBuffer], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"{cls.__name__}.*{message}"):
        check_replay_buffer(cls)


def test_check_names_unknown_parameter() -> None:
    with pytest.raises(ConfigError, match="n_sampled_goals: unknown parameter; did you mean 'n_sampled_goal'"):
        check_replay_buffer("her", params={"n_sampled_goals": 4}, env=GOAL_LINE)
