"""`check_callback` passes correct callbacks, and names the broken promise of others."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from toolkit import RunCallback
from toolkit.testing import ConformanceError, check_callback


class Clock(BaseCallback):
    """Holds a time, which differs between any two runs."""

    def _on_training_start(self) -> None:
        self.started = time.time()

    def _on_step(self) -> bool:
        return True


class ReturnsNone(BaseCallback):
    def _on_step(self):
        pass


class StopsAt100(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 100


class DrawsRandomNumbers(BaseCallback):
    def _on_step(self):
        torch.rand(1)
        return True


class SingleEnvOnly(BaseCallback):
    def _on_step(self):
        return not self.locals["dones"] or True


class HoldsIterator(BaseCallback):
    def _on_training_start(self):
        self.numbers = itertools.count()

    def _on_step(self):
        return True


class LosesCount(BaseCallback):
    count = 0

    def _on_step(self):
        self.count += 1
        self.logger.record("mine/count", self.count)
        return True

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class FailsToLoad(LosesCount):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["cuont"]


class DrawsInCheck(RunCallback):
    def check_model(self, model):
        torch.rand(1)
        with torch.no_grad():
            next(model.policy.parameters()).add_(1)

    def _on_step(self):
        return True


class FillsInCheck(DrawsInCheck):
    def check_model(self, model):
        space = model.observation_space
        observation = np.zeros((model.n_envs, *space.shape))
        zeros = np.zeros(model.n_envs)
        model.replay_buffer.add(observation, observation, zeros, zeros, zeros, [{}] * model.n_envs)


class ChangesWeightsAgain(RunCallback):
    """Does what must be done once, without asking whether training is resumed."""

    def _on_training_start(self):
        with torch.no_grad():
            next(self.model.policy.parameters()).add_(0.01)

    def _on_step(self):
        return True


BROKEN_CALLBACKS: list[tuple[type[BaseCallback], str]] = [
    (ReturnsNone, r"ended training at timestep 1 of 256; _on_step returns True.*changes_training=True"),
    (StopsAt100, r"ended training at timestep 100 of 256; .*changes_training=True"),
    (DrawsRandomNumbers, r"changed training: the final weights differ.*its own generator.*changes_training=True"),
    (SingleEnvOnly, r"with 4 environments failed: ValueError.*one entry per environment"),
    (HoldsIterator, r"numbers cannot be saved, .*state_dict and load_state_dict"),
    (LosesCount, r"differs from an uninterrupted one: progress.csv \(mine/count\); .*state_dict"),
    (DrawsInCheck, r"check_model changed the generator of torch, the weights \(.*move this to _on_training_start"),
    (FailsToLoad, r"`toolkit resume` after a crash failed: .*cuont.*load_state_dict"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "changes"), [(Clock, False), (StopsAt100, True), (DrawsRandomNumbers, True)])
def test_callback_may_hold_times_and_change_training_if_allowed(callback: type[BaseCallback], changes: bool) -> None:
    check_callback(callback, changes_training=changes)


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "message"), BROKEN_CALLBACKS, ids=lambda part: getattr(part, "__name__", ""))
def test_broken_callback_is_reported_with_advice(callback: type[BaseCallback], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){callback.__name__}.*{message}"):
        check_callback(callback)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callback", "algorithm", "message"),
    [
        (FillsInCheck, "dqn", r"FillsInCheck\.check_model changed the replay buffer; .*not on resume"),
        (ChangesWeightsAgain, "a2c", r"ChangesWeightsAgain: .* the weights \(.*ask self\.context\.is_resumed"),
    ],
)
def test_callback_that_changes_training_is_checked_with_its_algorithm(
    callback: type[BaseCallback], algorithm: str, message: str
) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_callback(callback, algorithm=algorithm, changes_training=True)
