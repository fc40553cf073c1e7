"""Losses of transitions, with weights and from networks that compute their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.dqn.policies import QNetwork

from toolkit.algorithms import DoubleDQN
from toolkit.algorithms.losses import TransitionLosses, compute_losses, update_by_losses
from toolkit.algorithms.policies import MlpPolicy
from toolkit.algorithms.targets import WeightedMinibatch
from toolkit.algorithms.updates import UpdateConfig, update_networks

CONFIG = UpdateConfig(True, "huber", False, 1, 0.9, 10.0)
BATCH = ReplayBufferSamples(
    observations=th.tensor([[0.0], [1.0], [2.0]]),
    actions=th.tensor([[0], [1], [1]]),
    next_observations=th.tensor([[1.0], [2.0], [0.0]]),
    dones=th.tensor([[0.0], [0.0], [1.0]]),
    rewards=th.tensor([[1.0], [-3.0], [0.5]]),
)
ONLINE = th.tensor([[1.0, 5.0], [4.0, 3.0], [0.0, 1.0]], dtype=th.float32)  # row by observation
TARGET = th.tensor([[8.0, 2.0], [6.0, 7.0], [9.0, 9.5]], dtype=th.float32)
# r + 0.9 * target value of the online network's action: 1 + 0.9 * 6, -3 + 0.9 * 9.5, 0.5; values 1, 3, 1
DIFFERENCES = np.array([6.4 - 1, 5.55 - 3, 0.5 - 1])


def look_up(table: th.Tensor) -> Any:
    return lambda observations: table[observations[:, 0].long()]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("huber", np.where(np.abs(DIFFERENCES) < 1, DIFFERENCES**2 / 2, np.abs(DIFFERENCES) - 0.5)),
        ("mse", DIFFERENCES**2),
    ],
)
@pytest.mark.parametrize("over_all", [False, True])
def test_losses_of_q_values_equal_arithmetic_by_hand(loss: str, expected: Any, over_all: bool) -> None:
    config = CONFIG._replace(loss=loss, loss_over_all_actions=over_all)
    losses = compute_losses(config, look_up(ONLINE), look_up(TARGET), BATCH)
    np.testing.assert_allclose(losses, expected / (2 if over_all else 1), rtol=1e-6)


@pytest.mark.parametrize("over_all", [False, True])
def test_update_lowers_weighted_mean_and_returns_errors(over_all: bool) -> None:
    table = ONLINE.clone().requires_grad_()
    weights, steps = th.tensor([1.0, 0.25, 0.5]), []
    config = CONFIG._replace(loss_over_all_actions=over_all)
    batch = WeightedMinibatch(*BATCH, weights=weights)
    means, errors = update_by_losses(config, look_up(table), look_up(TARGET), batch, steps.append)
    np.testing.assert_allclose(errors, np.abs(DIFFERENCES), rtol=1e-6)
    n_outputs = 2 if over_all else 1
    assert means[0].item() == pytest.approx((4.9 + 0.25 * 2.05 + 0.5 * 0.125) / 3 / n_outputs)
    steps[0].backward()
    expected = np.zeros((3, 2))
    expected[[0, 1, 2], [0, 1, 1]] = np.array([-1, -0.25, 0.5 * 0.5]) / 3 / n_outputs
    np.testing.assert_allclose(table.grad, expected, atol=1e-7)


@pytest.mark.parametrize("n_epochs", [1, 3])
@pytest.mark.parametrize("double", [False, True])
def test_unweighted_losses_update_like_the_usual_way(double: bool, n_epochs: int) -> None:
    config = CONFIG._replace(double=double, n_epochs=n_epochs)
    tables = []
    for update in (update_networks, update_by_losses):
        table = ONLINE.clone().requires_grad_()

        def step(loss: th.Tensor, table: th.Tensor = table) -> None:
            table.data -= 0.1 * th.autograd.grad(loss, table)[0]

        update(config, look_up(table), look_up(TARGET), BATCH, step)
        tables.append(table.detach())
    th.testing.assert_close(*tables)


class QuarticQNetwork(QNetwork):
    """A Q-network that learns the rewards alone, by the fourth power of the distance."""

    calls: list[str] = []

    def compute_targets(self, config: UpdateConfig, target: Any, batch: Any) -> th.Tensor:
        assert type(target) is QuarticQNetwork
        assert target is not self
        self.calls.append("targets")
        return batch.rewards

    def compute_losses(self, config: UpdateConfig, targets: th.Tensor, batch: Any) -> TransitionLosses:
        self.calls.append("losses")
        distances = self(batch.observations).gather(1, batch.actions.long()) - targets
        return TransitionLosses(distances.pow(4).mean(dim=1), distances.detach().abs().squeeze(1))


class QuarticPolicy(MlpPolicy):
    def make_q_net(self) -> QNetwork:
        return QuarticQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


@pytest.mark.parametrize("compile", [False, True])
def test_network_with_own_losses_learns_by_them(compile: bool) -> None:
    QuarticQNetwork.calls.clear()
    params: dict[str, Any] = {"learning_starts": 10, "train_freq": 1, "batch_size": 16, "learning_rate": 1e-2}
    model = DoubleDQN(QuarticPolicy, "CartPole-v1", n_epochs=2, compile=compile, seed=0, **params).learn(150)
    assert QuarticQNetwork.calls[:6] == ["targets", "losses", "losses"] * 2
    values = model.q_net(th.as_tensor(model.replay_buffer.observations[:100, 0]))
    assert not model._learner.should_compile
    np.testing.assert_allclose(values.detach(), 1, atol=0.4)  # CartPole's reward; a DQN's values would exceed 2
