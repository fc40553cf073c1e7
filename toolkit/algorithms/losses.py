"""The loss of each transition, unreduced: for minibatches with weights, and for Q-networks with losses of their own.

An update lowers ``mean(weights * losses)``. Minibatches without weights, of Q-networks that compute nothing but
Q-values, take the ways of :mod:`toolkit.algorithms.updates` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch as th
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.mlp_gradients import MlpGradients
from toolkit.algorithms.targets import Minibatch, QFunction
from toolkit.algorithms.updates import LOSSES, UpdateConfig, compute_targets

_NONE: Any = 0  # a reduction; PyTorch declares it as text
_Function = Callable[..., th.Tensor]
_ELEMENTWISE: dict[str, tuple[_Function, _Function]] = {  # losses, and their gradients from those of the losses
    "huber": (
        lambda values, targets: th._C._nn.smooth_l1_loss(values, targets, _NONE, 1.0),
        lambda gradient, *tensors: th.ops.aten.smooth_l1_loss_backward.default(gradient, *tensors, _NONE, 1.0),
    ),
    "mse": (
        lambda values, targets: th._C._nn.mse_loss(values, targets, _NONE),
        lambda gradient, *tensors: th.ops.aten.mse_loss_backward.default(gradient, *tensors, _NONE),
    ),
}


class TransitionLosses(NamedTuple):
    """What an update computes of each transition.

    :param losses: (batch,), which an update lowers
    :param errors: (batch,), at least 0 and without gradient: prioritized replay draws transitions by them
    """

    losses: th.Tensor
    errors: th.Tensor


class NetworkWithLosses(Protocol):
    """A Q-network that learns by targets and losses of its own, such as one whose outputs are distributions.

    Called with observations, it still returns Q-values (batch, actions): SB3 and the toolkit choose actions by them.
    """

    def __call__(self, observations: Any) -> th.Tensor:
        """Return Q-values (batch, actions)."""

    def compute_targets(self, config: UpdateConfig, target: Any, batch: Minibatch) -> Any:
        """Return what the online network learns from a minibatch. It is called without autograd, on that network.

        With ``config.double``, this network chooses the next action and the target network values it.

        :param target: the target network, of the same class
        """

    def compute_losses(self, config: UpdateConfig, targets: Any, batch: Minibatch) -> TransitionLosses:
        """Return the losses of this network's outputs for a minibatch and its targets."""


def has_own_losses(network: object) -> TypeGuard[NetworkWithLosses]:
    """Return whether a Q-network, or a function in its place, learns by losses of its own."""
    return hasattr(type(network), "compute_losses")  # the class, as a module's own look-up takes longer


def compute_losses(config: UpdateConfig, online: QFunction, target: Any, batch: Minibatch) -> th.Tensor:
    """Return the loss of each transition of a minibatch: (batch,).

    :param online: learns: a function from observations to Q-values, or a network with losses of its own
    :param target: the target network, or a function like ``online``
    """
    with th.no_grad():
        targets = compute_any_targets(config, online, target, batch)
    return compute_losses_to(config, online, targets, batch).losses


def compute_any_targets(config: UpdateConfig, online: QFunction, target: Any, batch: Minibatch) -> Any:
    """Return the targets of a minibatch: those of a network with targets of its own, or else Q-values."""
    if has_own_losses(online):
        return online.compute_targets(config, target, batch)
    return compute_targets(config, online, target, batch)


def compute_losses_to(config: UpdateConfig, online: QFunction, targets: Any, batch: Minibatch) -> TransitionLosses:
    """Return the losses of the online network's outputs to :func:`compute_any_targets`.

    Of Q-values, a transition's loss is that of its action, or the mean over all actions with
    ``loss_over_all_actions``. Its error is ``|target - Q(s, a)|``.
    """
    if has_own_losses(online):
        return online.compute_losses(config, targets, batch)
    values, actions = online(batch.observations), batch.actions.long()
    if not config.loss_over_all_actions:
        values = values.gather(dim=1, index=actions)
    losses = getattr(F, LOSSES[config.loss])(values, targets, reduction="none").mean(dim=1)
    errors = (targets - values.detach()).abs()
    return TransitionLosses(losses, (errors.gather(1, actions) if config.loss_over_all_actions else errors).squeeze(1))


def update_by_losses(
    config: UpdateConfig,
    online: QFunction,
    target: Any,
    batch: Minibatch,
    step_optimizer: Callable[[th.Tensor], None],
) -> tuple[list[th.Tensor], th.Tensor]:
    """Update the online network ``n_epochs`` times on one minibatch, with targets computed once.

    :param step_optimizer: makes one step of the optimizer for a loss
    :return: the loss before each step, and the transitions' errors (batch,) before the last one
    """
    with th.no_grad():
        targets = compute_any_targets(config, online, target, batch)
    weights, means = get_weights(batch), []
    for _ in range(config.n_epochs):
        losses, errors = compute_losses_to(config, online, targets, batch)
        loss = (losses if weights is None else weights * losses).mean()
        step_optimizer(loss)
        means.append(loss.detach())
    return means, errors


def get_weights(batch: Any) -> th.Tensor | None:
    """Return the weights (batch,) of a minibatch's transitions; None if all are 1."""
    return getattr(batch, "weights", None)


def update_layers_by_losses(
    config: UpdateConfig,
    online: QFunction,
    layers: MlpGradients,
    target: QFunction,
    batch: Any,
    step_optimizer: Callable[[list[th.Tensor]], None],
) -> tuple[list[th.Tensor], th.Tensor]:
    """Do what :func:`update_by_losses` does with gradients that are computed layer by layer, to rounding.

    :param batch: has weights and no Dict observations
    :param step_optimizer: makes one step of the optimizer for the gradients of the parameters
    """
    compute_loss, compute_gradient = _ELEMENTWISE[config.loss]
    means = []
    with th.no_grad():
        targets = compute_targets(config, online, target, batch)
        actions = batch.actions.long()
        weights = batch.weights[:, None] / targets.numel()  # of each output in the mean
        for _ in range(config.n_epochs):
            passed = layers.forward(batch.observations)
            all_values = passed[-1]
            values = all_values if config.loss_over_all_actions else all_values.gather(dim=1, index=actions)
            means.append((compute_loss(values, targets) * weights).sum())
            gradient = compute_gradient(weights.expand_as(values), values, targets)
            errors = (targets - values).abs()
            if not config.loss_over_all_actions:
                gradient = th.zeros_like(all_values).scatter_(1, actions, gradient)
            step_optimizer(layers.backward(passed, gradient)[0])
    return means, (errors.gather(1, actions) if config.loss_over_all_actions else errors).squeeze(1)
