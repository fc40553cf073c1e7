"""The targets that an update learns: Double DQN's, and plain DQN's."""

from __future__ import annotations

from collections.abc import Callable

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples

Minibatch = ReplayBufferSamples | DictReplayBufferSamples
QFunction = Callable[[PyTorchObs], th.Tensor]  # observations (batch, ...) to Q-values (batch, actions)


def compute_double_dqn_target(batch: Minibatch, gamma: float, online: QFunction, target: QFunction) -> th.Tensor:
    """Return ``r + gamma * Q_target(s', argmax_a Q_online(s', a))``, and ``r`` where the episode terminates.

    The online network chooses the next action and the target network values it (van Hasselt et al., 2016).

    :param batch: transitions; with n-step returns, ``batch.discounts`` replaces ``gamma``
    :param gamma: discount factor, 0 to 1
    :return: (batch, 1)
    """
    next_values = target(batch.next_observations)
    next_actions = online(batch.next_observations).argmax(dim=1, keepdim=True)
    return _compute_return(batch, gamma, next_values.gather(dim=1, index=next_actions))


def compute_dqn_target(batch: Minibatch, gamma: float, target: QFunction) -> th.Tensor:
    """Return ``r + gamma * max_a Q_target(s', a)``, and ``r`` where the episode terminates (Mnih et al., 2015).

    :param batch: transitions; with n-step returns, ``batch.discounts`` replaces ``gamma``
    :param gamma: discount factor, 0 to 1
    :return: (batch, 1)
    """
    next_values = target(batch.next_observations)
    return _compute_return(batch, gamma, next_values.max(dim=1, keepdim=True).values)


def spread_over_actions(batch: Minibatch, targets: th.Tensor, online: QFunction) -> th.Tensor:
    """Return a target for every action: the network's own prediction, except for the action of the transition.

    :param targets: of the transitions' actions, (batch, 1)
    :return: (batch, actions)
    """
    return online(batch.observations).scatter(dim=1, index=batch.actions.long(), src=targets)


def _compute_return(batch: Minibatch, gamma: float, next_values: th.Tensor) -> th.Tensor:
    discounts = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values
