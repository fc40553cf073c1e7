"""Policies for DQN and its subclasses."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn


class LayerNormQNetwork(QNetwork):
    """SB3's Q-network with layer normalization before each activation function."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        n_actions = int(self.action_space.n)
        normalization: list[type[nn.Module]] = [nn.LayerNorm]
        layers = create_mlp(
            self.features_dim, n_actions, self.net_arch, self.activation_fn, post_linear_modules=normalization
        )
        self.q_net = nn.Sequential(*layers)


class LayerNormPolicy(DQNPolicy):
    """DQN's ``MlpPolicy`` with layer normalization, which keeps hidden units in range as targets grow.

    Paper: Ba, Kiros and Hinton, "Layer Normalization" (2016), https://arxiv.org/abs/1607.06450.
    """

    def make_q_net(self) -> QNetwork:
        """Build a Q-network. SB3 calls this for the online and the target network."""
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return LayerNormQNetwork(**net_args).to(self.device)
