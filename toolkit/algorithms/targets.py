"""The targets that an update learns: Double DQN's, and plain DQN's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples


class WeightedMinibatch(NamedTuple):
    """A minibatch of SB3 with a weight for each transition.

    :param discounts: (batch, 1), of what follows the return of each transition; None if all are gamma
    :param weights: (batch,)
    """

    observations: PyTorchObs
    actions: th.Tensor
    next_observations: PyTorchObs
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor


Minibatch = ReplayBufferSamples | DictReplayBufferSamples | WeightedMinibatch
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


def compute_munchausen_target(
    batch: Minibatch,
    gamma: float,
    target: QFunction,
    online: QFunction | None = None,
    alpha: float = 0.9,
    tau: float = 0.03,
    clip: float = -1.0,
) -> th.Tensor:
    """Return the target of Munchausen DQN (Vieillard, Pietquin and Geist, 2020, https://arxiv.org/abs/2007.14430).

    With ``pi(.|s) = softmax(Q_target(s, .) / tau)`` it is equation 2::

        r + alpha * clip(tau * ln pi(a|s), clip, 0) + gamma * sum_b pi(b|s') * (Q_target(s', b) - tau * ln pi(b|s'))

    where the last term is 0 if the episode terminates. An ``alpha`` of 0 gives soft DQN: a softmax in place of DQN's
    maximum. With ``online``, this network's softmax is the policy in ``s'``, and the target network values it, so that
    a small ``tau`` and an ``alpha`` of 0 give Double DQN's target. With n-step returns, the log-policy of the first
    action alone is added, as in the authors' code, because a minibatch has no more of the steps.

    :param batch: transitions; with n-step returns, ``batch.discounts`` replaces ``gamma``
    :param alpha: share of the log-policy, 0 to 1
    :param tau: temperature of the policy, above 0
    :param clip: lower bound of the log-policy times ``tau``, at most 0
    :return: (batch, 1)
    """
    next_values = target(batch.next_observations)
    choosing_values = next_values if online is None else online(batch.next_observations)
    next_log_policy = compute_scaled_log_policy(choosing_values, tau)
    soft_values = (next_log_policy / tau).exp() * (next_values - next_log_policy)
    targets = _compute_return(batch, gamma, soft_values.sum(dim=1, keepdim=True))
    log_policy = compute_scaled_log_policy(target(batch.observations), tau).gather(1, batch.actions.long())
    return targets + alpha * log_policy.clamp(clip, 0)


def compute_scaled_log_policy(values: th.Tensor, tau: float) -> th.Tensor:
    """Return ``tau * ln softmax(values / tau)`` over the actions: (batch, actions)."""
    return tau * th.log_softmax(values / tau, dim=1)


def spread_over_actions(batch: Minibatch, targets: th.Tensor, online: QFunction) -> th.Tensor:
    """Return a target for every action: the network's own prediction, except for the action of the transition.

    :param targets: of the transitions' actions, (batch, 1)
    :return: (batch, actions)
    """
    return online(batch.observations).scatter(dim=1, index=batch.actions.long(), src=targets)


def _compute_return(batch: Minibatch, gamma: float, next_values: th.Tensor) -> th.Tensor:
    discounts = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values
