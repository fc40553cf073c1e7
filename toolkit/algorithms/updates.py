"""One minibatch's updates as functions of tensors. Plain and compiled updates share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.targets import (
    Minibatch,
    QFunction,
    compute_double_dqn_target,
    compute_dqn_target,
    spread_over_actions,
)

LOSSES = {"huber": "smooth_l1_loss", "mse": "mse_loss"}  # functions of `torch.nn.functional`


class UpdateConfig(NamedTuple):
    """The parameters of :class:`toolkit.algorithms.DoubleDQN` that determine what an update computes."""

    double: bool
    loss: str
    loss_over_all_actions: bool
    n_epochs: int
    gamma: float
    max_grad_norm: float


def update_networks(
    config: UpdateConfig,
    online: QFunction,
    target: QFunction,
    batch: Minibatch,
    step_optimizer: Callable[[th.Tensor], None],
) -> list[th.Tensor]:
    """Update the online network ``n_epochs`` times on one minibatch, with targets computed once.

    :param step_optimizer: makes one step of the optimizer for a loss
    :return: the loss before each step
    """
    with th.no_grad():
        targets = compute_targets(config, online, target, batch)
    losses = []
    for _ in range(config.n_epochs):
        values = online(batch.observations)
        if not config.loss_over_all_actions:
            values = values.gather(dim=1, index=batch.actions.long())
        loss = getattr(F, LOSSES[config.loss])(values, targets)
        step_optimizer(loss)
        losses.append(loss.detach())
    return losses


def compute_targets(config: UpdateConfig, online: QFunction, target: QFunction, batch: Minibatch) -> th.Tensor:
    """Return the targets of an update: (batch, 1), or (batch, actions) with ``loss_over_all_actions``."""
    if config.double:
        targets = compute_double_dqn_target(batch, config.gamma, online, target)
    else:
        targets = compute_dqn_target(batch, config.gamma, target)
    return spread_over_actions(batch, targets, online) if config.loss_over_all_actions else targets
