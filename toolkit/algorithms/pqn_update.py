"""PQN's network and updates without what PyTorch does around small layers, to the same weights.

This is possible for an MLP of known layers in the CPU's memory, with RAdam. Anything else, such as hooks, images or
another optimizer, goes PyTorch's way. What is possible is looked up again in every call.
"""

from __future__ import annotations

import operator
from typing import Any

import torch as th
from stable_baselines3.common import policies as sb3_policies
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.adam import OPTIMIZER_FUNCTIONS, clip_gradients, steps_in_order
from toolkit.algorithms.fast_path import FORWARD_FUNCTIONS, FastQNetwork, are_known
from toolkit.algorithms.pqn_policies import MlpPolicy
from toolkit.algorithms.radam import is_plain_radam, step_radam
from toolkit.algorithms.stock import (
    Watch,
    are_in_place,
    get_functions,
    is_frozen_or_hooked,
    is_torch_plain,
    store_plainly,
)

_UPDATE_FUNCTIONS = OPTIMIZER_FUNCTIONS | get_functions([(F, "mse_loss")])
_get_kind = operator.attrgetter("device.type", "dtype")


class PQNNetwork:
    """A policy's Q-network and optimizer, as they are when this object is made.

    Parameters may change at any time, everything else is noticed by :meth:`is_current`.
    """

    def __init__(self, policy: MlpPolicy) -> None:
        self._policy, self._network, self._optimizer = policy, policy.q_net, policy.optimizer
        modules: list[nn.Module] = [policy, *policy.q_net.modules()]
        owners = {nn.Module, BaseModel, sb3_policies, *map(type, modules)}
        functions = {key: FORWARD_FUNCTIONS[key] for key in FORWARD_FUNCTIONS if key[0] in owners} | _UPDATE_FUNCTIONS
        is_plain = store_plainly(modules) and [*policy.children()] == [policy.q_net] and not policy._parameters
        self._fast_network = FastQNetwork(
            policy.q_net, is_plain and are_in_place(functions) and are_known(modules[1:])
        )
        self._watch = Watch(modules, functions, [policy.optimizer]) if is_plain else None

    def is_current(self, policy: MlpPolicy) -> bool:
        """Return whether a policy still has this network and optimizer, with everything that is known of them."""
        is_same = policy is self._policy and policy.q_net is self._network and policy.optimizer is self._optimizer
        return is_same and (self._watch is None or self._watch.is_unchanged())

    def compute_q_values(self, observations: PyTorchObs) -> th.Tensor:
        """Return the Q-values (batch, actions) of observations, without gradients."""
        with th.no_grad():
            if self._can_leave_out_modules():
                return self._fast_network.compute_by_layers(observations)
            values: th.Tensor = self._network(observations)
            return values

    def _can_leave_out_modules(self) -> bool:
        return self._fast_network.has_bare_layers and not self._watch.has_hooks and is_torch_plain()  # type: ignore[union-attr]

    def can_differentiate(self) -> bool:
        """Return whether :meth:`update_by_layers` gives what autograd and the optimizer's ``step`` give now."""
        if self._fast_network.gradients is None or not self._can_leave_out_modules():
            return False
        parameters = self._fast_network.parameters
        is_usual = {*map(_get_kind, parameters)} == {("cpu", th.float32)} and th.is_grad_enabled()
        is_plain = is_usual and not any(map(is_frozen_or_hooked, parameters))
        return is_plain and is_plain_radam(self._optimizer) and steps_in_order(self._optimizer, parameters)

    def update_by_layers(
        self, observations: th.Tensor, actions: th.Tensor, returns: th.Tensor, max_grad_norm: float
    ) -> th.Tensor:
        """Make the update of :meth:`update` with gradients computed layer by layer."""
        layers: Any = self._fast_network.gradients
        with th.no_grad():
            passed = layers.forward(observations)
            all_values = passed[-1]
            values = all_values.gather(dim=1, index=actions)
            slopes = (values - returns.unsqueeze(1)).div_(len(returns))
            gradients, _ = layers.backward(passed, th.zeros_like(all_values).scatter_(1, actions, slopes))
            clip_gradients(gradients, max_grad_norm)
            step_radam(self._optimizer, gradients)
            return values.flatten()  # type: ignore[no-any-return]

    def update(
        self, observations: PyTorchObs, actions: th.Tensor, returns: th.Tensor, max_grad_norm: float
    ) -> th.Tensor:
        """Make one update on a minibatch.

        :param actions: (batch, 1)
        :param returns: what the Q-values of these actions should be, (batch,)
        :return: what they were, (batch,)
        """
        values = self._network(observations).gather(dim=1, index=actions).flatten()
        loss = F.mse_loss(values, returns) / 2
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._policy.parameters(), max_grad_norm)
        self._optimizer.step()
        return values.detach()  # type: ignore[no-any-return]
