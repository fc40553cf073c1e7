"""Munchausen DQN's targets against the paper, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.targets import (
    compute_double_dqn_target,
    compute_dqn_target,
    compute_munchausen_target,
)
from toolkit.algorithms.updates import UpdateConfig, compute_targets

RNG = np.random.default_rng(0)
ONLINE, TARGET = (RNG.normal(size=(8, 3)) for _ in range(2))  # Q-values by observation
STATES, NEXT_STATES, ACTIONS = (RNG.integers(0, high, 20) for high in (8, 8, 3))
REWARDS, DONES, DISCOUNTS = RNG.normal(size=20), RNG.random(20) < 0.3, 0.9 ** RNG.integers(1, 4, 20)
CONFIG = UpdateConfig(True, "huber", False, 1, 0.95, 10.0, munchausen_alpha=0.9)


def make_batch(discounts: Any = None) -> ReplayBufferSamples:
    columns = [STATES, ACTIONS, NEXT_STATES, DONES, REWARDS] + ([] if discounts is None else [discounts])
    return ReplayBufferSamples(*(th.as_tensor(np.asarray(column, float)[:, None]) for column in columns))


def look_up(table: Any) -> Any:
    return lambda observations: th.as_tensor(table)[observations[:, 0].long()]


def compute_log_policy(values: Any, tau: float) -> Any:
    shifted = values / tau - (values / tau).max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def compute_expected(alpha: float, tau: float, clip: float, discounts: Any, chooser: Any) -> Any:
    log_policy = compute_log_policy(TARGET, tau)[STATES, ACTIONS]
    next_log_policy = compute_log_policy(chooser, tau)[NEXT_STATES]
    next_values = (np.exp(next_log_policy) * (TARGET[NEXT_STATES] - tau * next_log_policy)).sum(axis=1)
    return REWARDS + alpha * np.clip(tau * log_policy, clip, 0) + discounts * (1 - DONES) * next_values


@pytest.mark.parametrize("discounts", [None, DISCOUNTS], ids=["one-step", "n-step"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("alpha", "tau", "clip"), [(0.9, 0.03, -1.0), (0.5, 2.0, -0.5), (0.0, 0.3, -1.0)])
def test_munchausen_targets_equal_the_paper_by_hand(
    alpha: float, tau: float, clip: float, double: bool, discounts: Any
) -> None:
    config = CONFIG._replace(double=double, munchausen_alpha=alpha, munchausen_tau=tau, munchausen_clip=clip)
    targets = compute_targets(config, look_up(ONLINE), look_up(TARGET), make_batch(discounts))
    chooser = ONLINE if double else TARGET
    expected = compute_expected(alpha, tau, clip, 0.95 if discounts is None else discounts, chooser)
    np.testing.assert_allclose(targets[:, 0], expected, rtol=1e-9)


def test_small_temperature_without_bonus_gives_hard_targets() -> None:
    batch, online, target = make_batch(), look_up(ONLINE), look_up(TARGET)
    soft = compute_munchausen_target(batch, 0.95, target, None, 0.0, 1e-6)
    th.testing.assert_close(soft, compute_dqn_target(batch, 0.95, target), rtol=0, atol=1e-5)
    soft = compute_munchausen_target(batch, 0.95, target, online, 0.0, 1e-6)
    th.testing.assert_close(soft, compute_double_dqn_target(batch, 0.95, online, target), rtol=0, atol=1e-5)


def test_far_apart_values_have_finite_targets() -> None:
    far = look_up(1e6 * TARGET)
    assert compute_munchausen_target(make_batch(), 0.95, far, far).isfinite().all()


def test_model_learns_munchausen_targets_and_keeps_parameters(tmp_path: Path) -> None:
    params: dict[str, Any] = {"munchausen_alpha": 0.8, "munchausen_tau": 0.1, "munchausen_clip": -0.5}
    models = []
    for own in (params, {}):
        model = DoubleDQN("MlpPolicy", "CartPole-v1", learning_starts=20, train_freq=1, seed=0, **own)
        models.append(model.learn(60))
    state, other = (model.q_net.state_dict() for model in models)
    assert any(not th.equal(tensor, other[name]) for name, tensor in state.items())
    models[0].save(tmp_path / "model.zip")
    loaded = DoubleDQN.load(tmp_path / "model.zip")
    assert {name: getattr(loaded, name) for name in params} == params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"munchausen_alpha": 1.1}, "munchausen_alpha must be from 0 to 1"),
        ({"munchausen_tau": 0}, "munchausen_tau must be above 0"),
        ({"munchausen_clip": 0.1}, "munchausen_clip must be at most 0"),
        (
            {"munchausen_alpha": 0.9, "policy_kwargs": {"distribution": "qr"}},
            "munchausen_alpha needs a policy without distribution",
        ),
    ],
)
def test_parameters_out_of_range_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DoubleDQN("MlpPolicy", "CartPole-v1", **params)
