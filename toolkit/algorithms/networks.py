"""What is known of a model's policy and networks, and whether it still holds."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common import policies as sb3_policies
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.adam import OPTIMIZER_FUNCTIONS, has_plain_adam_methods
from toolkit.algorithms.fast_path import FORWARD_FUNCTIONS, FastQNetwork, are_known, find_constants
from toolkit.algorithms.policies import MlpPolicy
from toolkit.algorithms.replay import BUFFER_FUNCTIONS
from toolkit.algorithms.stock import Watch, are_in_place, get_functions, has_methods, store_plainly
from toolkit.algorithms.updates import LOSSES

_UPDATE_FUNCTIONS = OPTIMIZER_FUNCTIONS | get_functions((F, name) for name in LOSSES.values())
_POLICY_METHOD_NAMES = ("predict", "_predict", "obs_to_tensor", "is_vectorized_observation", "set_training_mode")
_POLICY_METHODS = [{name: getattr(cls, name) for name in _POLICY_METHOD_NAMES} for cls in (MlpPolicy, DQNPolicy)]
_PREDICT, _NETWORK_METHODS = DQN.predict, {"_predict": QNetwork._predict}


class Networks:
    """A model's policy and networks, as they are when this object is made.

    Their parameters are not among what it knows: they may change at any time.
    """

    def __init__(self, model: DQN) -> None:
        self._parts = policy, q_net, q_net_target, optimizer = _get_parts(model)
        online, target = [*q_net.modules()], [*q_net_target.modules()]
        modules: list[nn.Module] = [*dict.fromkeys((policy, *online, *target))]
        owners = {nn.Module, BaseModel, sb3_policies, *map(type, modules)}
        functions = {key: FORWARD_FUNCTIONS[key] for key in FORWARD_FUNCTIONS if key[0] in owners}
        is_plain = store_plainly(modules)
        is_stock = is_plain and are_in_place(functions)
        self.online = FastQNetwork(q_net, is_stock and are_known(online))
        self.target = FastQNetwork(q_net_target, is_stock and are_known(target))
        #: whether SB3's own methods act by the online network, but for what is set on the model itself
        self.has_stock_policy = (
            is_plain
            and any(has_methods(policy, methods) for methods in _POLICY_METHODS)
            and has_methods(q_net, _NETWORK_METHODS)
            and policy.q_net is q_net
            and type(model).predict is _PREDICT
        )
        #: whether Adam's step, as a function, can replace the methods of an optimizer and what SB3 does around them
        self.have_stock_steps = (
            is_plain
            and _has_only(policy, q_net, q_net_target)
            and has_plain_adam_methods(optimizer)
            and are_in_place(_UPDATE_FUNCTIONS)
        )
        methods: list[tuple[Any, str]] = [(policy, name) for name in _POLICY_METHOD_NAMES]
        methods += [(q_net, "_predict"), (model, "predict"), (optimizer, "step")]
        own_functions = [(type(owner), name) for owner, name in methods if hasattr(type(owner), name)]
        all_functions = [*functions, *own_functions, *_UPDATE_FUNCTIONS, *BUFFER_FUNCTIONS]
        #: whether the methods of SB3's replay buffers are its own
        self.have_stock_buffers = are_in_place(BUFFER_FUNCTIONS)
        # classes are only changed between two updates, if ever
        self._acting = Watch([policy, *online]) if is_plain else None
        #: what the networks compute with besides parameters: attributes and their names
        self.constants = find_constants([*online, *target])
        self._updating = Watch(modules, all_functions, [optimizer]) if is_plain else None

    def are_current(self, model: DQN, for_acting: bool) -> bool:
        """Return whether a model still has these networks, with everything that is known of them.

        :param for_acting: look at nothing but what choosing actions takes
        """
        watch = self._acting if for_acting else self._updating
        return _get_parts(model) == self._parts and (watch is None or watch.is_unchanged())

    def have_hooks(self) -> bool:
        """Return whether modules have hooks now, or may have."""
        return self._updating is None or self._updating.has_hooks

    def can_act_fast(self, observations: Any) -> bool:
        """Return whether SB3's own methods would choose greedy actions by nothing but the online network's layers."""
        if not self.has_stock_policy or not self.online.has_bare_layers or self._acting.has_hooks:  # type: ignore[union-attr]
            return False
        return self.online.accepts(observations) and not self._parts[0].training

    def set_training_mode(self, mode: bool) -> None:
        """Do what the policy's method of this name does, if the policy is stock."""
        self._acting.set_training_mode(mode)  # type: ignore[union-attr]


def _get_parts(model: DQN) -> tuple[DQNPolicy, QNetwork, QNetwork, th.optim.Optimizer]:
    policy = model.policy
    return policy, model.q_net, model.q_net_target, policy.optimizer


def _has_only(policy: nn.Module, *networks: nn.Module) -> bool:
    """Return whether a policy has nothing but these networks, as clipping covers all parameters of a policy."""
    return [*policy.children()] == [*networks] and not policy._parameters
