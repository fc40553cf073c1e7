"""PQN's policies: SB3's DQN policies with layer normalization, and without a target network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn import policies as sb3
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from toolkit.algorithms.policies import FastModePolicy


class MlpPolicy(FastModePolicy):
    """DQN's ``MlpPolicy`` for PQN: one Q-network, with layer normalization, and RAdam.

    Paper: Ba, Kiros and Hinton, "Layer Normalization" (2016), https://arxiv.org/abs/1607.06450.

    :param layer_norm: whether to normalize what each hidden layer computes, before its activation. In SB3's
        ``NatureCNN``, a convolution's output is normalized over all its channels and places, with a scale and an
        offset for each channel. Other features extractors stay as they are
    :param optimizer_class: class of the optimizer
    """

    def __init__(
        self,
        *args: Any,
        layer_norm: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.RAdam,
        **kwargs: Any,
    ) -> None:
        self.layer_norm = layer_norm  # `DQNPolicy` builds the network in its constructor
        super().__init__(*args, optimizer_class=optimizer_class, **kwargs)  # type: ignore[misc]  # by keyword only

    def _build(self, lr_schedule: Schedule) -> None:
        self.q_net = self.make_q_net()
        self.optimizer = self.optimizer_class(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def make_q_net(self) -> QNetwork:
        """Make the Q-network."""
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        network = QNetwork(**net_args)
        if self.layer_norm:
            *hidden_layers, last_layer = network.q_net
            network.q_net = nn.Sequential(*_normalize(hidden_layers), last_layer)
            for module in network.features_extractor.modules():
                if type(module) is NatureCNN:
                    module.cnn = nn.Sequential(*_normalize(module.cnn))
                    module.linear = nn.Sequential(*_normalize(module.linear))
        return network.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"layer_norm": self.layer_norm}


def _normalize(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers, with a normalization after each convolution and linear layer."""
    for layer in layers:
        yield layer
        if isinstance(layer, nn.Conv2d):
            yield nn.GroupNorm(1, layer.out_channels)
        elif isinstance(layer, nn.Linear):
            yield nn.LayerNorm(layer.out_features)


class CnnPolicy(MlpPolicy, sb3.CnnPolicy):
    """DQN's ``CnnPolicy`` for PQN, for images."""


class MultiInputPolicy(MlpPolicy, sb3.MultiInputPolicy):
    """DQN's ``MultiInputPolicy`` for PQN, for Dict observations."""
