"""One minibatch's updates as functions of tensors. Plain and compiled updates share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.mlp_gradients import MlpGradients
from toolkit.algorithms.targets import (
    Minibatch,
    QFunction,
    compute_double_dqn_target,
    compute_dqn_target,
    compute_munchausen_target,
    spread_over_actions,
)

LOSSES = {"huber": "smooth_l1_loss", "mse": "mse_loss"}  # functions of `torch.nn.functional`
_MEAN: Any = 1  # a reduction; PyTorch declares it as text
_ONE = th.ones(())  # the gradient of a loss by itself
_LOSS_FUNCTIONS: dict[str, tuple[Callable[..., th.Tensor], Callable[..., th.Tensor]]] = {
    "huber": (
        lambda values, targets: th._C._nn.smooth_l1_loss(values, targets, _MEAN, 1.0),
        lambda values, targets: th.ops.aten.smooth_l1_loss_backward.default(_ONE, values, targets, _MEAN, 1.0),
    ),
    "mse": (
        lambda values, targets: th._C._nn.mse_loss(values, targets, _MEAN),
        lambda values, targets: th.ops.aten.mse_loss_backward.default(_ONE, values, targets, _MEAN),
    ),
}


class UpdateConfig(NamedTuple):
    """The parameters of :class:`toolkit.algorithms.DoubleDQN` that determine what an update computes.

    :param munchausen_alpha: share of the scaled log-policy in the reward, 0 to 1; None for hard targets
    :param munchausen_tau: temperature of the policy, above 0
    :param munchausen_clip: lower bound of the scaled log-policy, at most 0
    """

    double: bool
    loss: str
    loss_over_all_actions: bool
    n_epochs: int
    gamma: float
    max_grad_norm: float
    munchausen_alpha: float | None = None
    munchausen_tau: float = 0.03
    munchausen_clip: float = -1.0


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


def update_layers(
    config: UpdateConfig,
    online: QFunction,
    layers: MlpGradients,
    target: QFunction,
    batch: ReplayBufferSamples,
    step_optimizer: Callable[[list[th.Tensor]], None],
) -> list[th.Tensor]:
    """Do what :func:`update_networks` does, to the bit, with gradients that are computed layer by layer.

    :param step_optimizer: makes one step of the optimizer for the gradients of the parameters
    """
    compute_loss, compute_gradient = _LOSS_FUNCTIONS[config.loss]
    losses = []
    with th.no_grad():
        targets = compute_targets(config, online, target, batch)
        actions = batch.actions.long()
        for _ in range(config.n_epochs):
            passed = layers.forward(batch.observations)
            all_values = passed[-1]
            values = all_values if config.loss_over_all_actions else all_values.gather(dim=1, index=actions)
            losses.append(compute_loss(values, targets))
            gradient = compute_gradient(values, targets)
            if not config.loss_over_all_actions:
                gradient = th.zeros_like(all_values).scatter_(1, actions, gradient)
            step_optimizer(layers.backward(passed, gradient)[0])
    return losses


def compute_targets(config: UpdateConfig, online: QFunction, target: QFunction, batch: Minibatch) -> th.Tensor:
    """Return the targets of an update: (batch, 1), or (batch, actions) with ``loss_over_all_actions``."""
    if config.munchausen_alpha is not None:
        policy = online if config.double else None
        scales = config.munchausen_alpha, config.munchausen_tau, config.munchausen_clip
        targets = compute_munchausen_target(batch, config.gamma, target, policy, *scales)
    elif config.double:
        targets = compute_double_dqn_target(batch, config.gamma, online, target)
    else:
        targets = compute_dqn_target(batch, config.gamma, target)
    return spread_over_actions(batch, targets, online) if config.loss_over_all_actions else targets
