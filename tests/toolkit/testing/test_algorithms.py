"""`check_algorithm` names the broken promise of an algorithm."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from toolkit.testing import ConformanceError, check_algorithm

PARAMS = {"learning_starts": 100, "buffer_size": 1_000, "batch_size": 16}


class TensorOutsidePolicy(DQN):
    def _setup_model(self):
        super()._setup_model()
        self.scale = torch.ones(1)

    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        self.scale *= 1.01


class IgnoresSeed(DQN):
    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        with torch.no_grad():
            self.q_net.q_net[0].bias += np.random.default_rng().random()


class IgnoresCallback(DQN):
    def learn(self, total_timesteps, callback=None, log_interval=4, **kwargs):
        return super().learn(total_timesteps, **kwargs)


class StopsEarly(DQN):
    def learn(self, total_timesteps, callback=None, log_interval=4, **kwargs):
        return super().learn(total_timesteps // 2, callback, log_interval, **kwargs)


class LearnsNothing(DQN):
    def train(self, *args, **kwargs):
        pass


class RequiresParameter(DQN):
    def __init__(self, policy, env, bonus, **kwargs):
        super().__init__(policy, env, **kwargs)


class LosesCounter(DQN):
    def _setup_model(self):
        super()._setup_model()
        self._numbers = itertools.count(1)

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "_numbers"]

    def train(self, *args, **kwargs):
        super().train(*args, **kwargs)
        with torch.no_grad():
            self.q_net.q_net[0].bias += 1e-3 * next(self._numbers)


BROKEN_ALGORITHMS: list[tuple[type[DQN], str]] = [
    (TensorOutsidePolicy, r"loaded from its run directory, .*lacks what was learned: scale; .*_get_torch_save_params"),
    (IgnoresSeed, r"the same seed trained different weights \(.*; draw only from"),
    (IgnoresCallback, r"learn never called its callback; pass callback to"),
    (StopsEarly, r"learn\(300\) ended at num_timesteps 15"),
    (LearnsNothing, r"learned nothing in 300 timesteps: no weight changed; .*learning_starts"),
    (RequiresParameter, r"load\(model.zip\) raised TypeError.*'bonus'.*give all other parameters defaults"),
    (LosesCounter, r"resumed has different weights \(.*; define state_dict and load_state_dict"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "message"), BROKEN_ALGORITHMS, ids=lambda part: getattr(part, "__name__", ""))
def test_broken_algorithm_is_reported_with_advice(algorithm: type[DQN], message: str) -> None:
    bonus = {"bonus": 1} if algorithm is RequiresParameter else {}
    with pytest.raises(ConformanceError, match=f"(?s){algorithm.__name__}.*{message}"):
        check_algorithm(algorithm, params=PARAMS | bonus)
