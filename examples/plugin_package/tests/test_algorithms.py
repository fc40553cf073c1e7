"""Munchausen-DQN."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from toolkit.testing import check_algorithm

from cartpole_extras.algorithms import MunchausenDQN


def test_munchausen_dqn_passes_conformance_check() -> None:
    check_algorithm("munchausen_dqn", params={"alpha": 0.5, "buffer_size": 1_000, "target_update_interval": 100})


def make_model(**parameters: Any) -> tuple[MunchausenDQN, ReplayBufferSamples]:
    """Return an untrained model, and a minibatch of random steps with some ends of episodes."""
    model = MunchausenDQN("MlpPolicy", "CartPole-v1", learning_starts=1_000, gamma=0.9, seed=0, **parameters)
    model.learn(200)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(100)
    assert 0 < batch.dones.sum() < 100
    return model, batch


@pytest.mark.parametrize("lowest_bonus", [-1.0, -0.001])
def test_targets_follow_equation_1(lowest_bonus: float) -> None:
    alpha, tau = 0.7, 0.5
    model, batch = make_model(alpha=alpha, temperature=tau, lowest_bonus=lowest_bonus)
    with torch.no_grad():
        q, next_q = (
            model.q_net_target(observations).double().numpy()
            for observations in (batch.observations, batch.next_observations)
        )
        targets = model.compute_targets(batch).numpy().ravel()
    pi, next_pi = (np.exp(values / tau) / np.exp(values / tau).sum(axis=1, keepdims=True) for values in (q, next_q))
    probabilities = pi[np.arange(100), batch.actions.numpy().ravel()]
    bonus = np.clip(tau * np.log(probabilities), lowest_bonus, 0)
    value = (next_pi * (next_q - tau * np.log(next_pi))).sum(axis=1)
    rewards, dones = batch.rewards.numpy().ravel(), batch.dones.numpy().ravel()
    assert targets == pytest.approx(rewards + alpha * bonus + 0.9 * (1 - dones) * value, rel=1e-5)


def test_targets_without_bonus_and_temperature_are_dqn_targets() -> None:
    model, batch = make_model(alpha=0.0, temperature=1e-6)
    with torch.no_grad():
        best = model.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
        expected = batch.rewards + 0.9 * (1 - batch.dones) * best
        assert torch.allclose(model.compute_targets(batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 2.0}, "alpha must be from 0 to 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"lowest_bonus": 0.1}, "lowest_bonus must be at most 0"),
        ({"n_steps": 3}, "n_steps must be 1"),
    ],
)
def test_parameter_out_of_range_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MunchausenDQN("MlpPolicy", "CartPole-v1", **parameters)
