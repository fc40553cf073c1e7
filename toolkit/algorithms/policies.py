"""DoubleDQN's policies: SB3's DQN policies, and the same with a dueling head."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.dqn import policies as sb3
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from toolkit.algorithms.stock import set_training_mode


class DuelingHead(nn.Module):
    """Joins a state value and the actions' advantages: ``Q = V + A - mean(A)``.

    Paper: Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning" (2016),
    https://arxiv.org/abs/1511.06581, equation 9.

    :param features_dim: size of the input
    :param action_dim: number of actions
    """

    def __init__(self, features_dim: int, action_dim: int) -> None:
        super().__init__()
        self.value = nn.Linear(features_dim, 1)
        self.advantage = nn.Linear(features_dim, action_dim)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Map features (batch, features_dim) to Q-values (batch, action_dim)."""
        advantage: th.Tensor = self.advantage(features)
        value: th.Tensor = self.value(features)
        return value + advantage - advantage.mean(dim=1, keepdim=True)


class DuelingQNetwork(QNetwork):
    """SB3's Q-network with a dueling head in place of its last layer; ``net_arch`` is the trunk both streams share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        *_, last_layer = self.q_net.children()
        self.q_net[-1] = DuelingHead(last_layer.in_features, last_layer.out_features)  # type: ignore[arg-type]


_SET_TRAINING_MODE = BaseModel.set_training_mode


class MlpPolicy(sb3.DQNPolicy):
    """DQN's ``MlpPolicy``, which changes its networks' mode in a fraction of the time.

    SB3 asks for a mode at each step of the environment. PyTorch's way to set it takes as long as choosing the action.
    """

    def set_training_mode(self, mode: bool) -> None:
        """Put the Q-network in training or evaluation mode. SB3 leaves the target network in evaluation mode."""
        network = self.__dict__["_modules"]["q_net"]
        if type(network).set_training_mode is not _SET_TRAINING_MODE or "set_training_mode" in network.__dict__:
            super().set_training_mode(mode)
            return
        set_training_mode(network, mode)
        self.__dict__["training"] = mode


class CnnPolicy(MlpPolicy, sb3.CnnPolicy):
    """DQN's ``CnnPolicy``, with ``MlpPolicy``'s way of changing modes."""


class MultiInputPolicy(MlpPolicy, sb3.MultiInputPolicy):
    """DQN's ``MultiInputPolicy``, with ``MlpPolicy``'s way of changing modes."""


class DuelingMlpPolicy(MlpPolicy):
    """DQN's ``MlpPolicy`` with a dueling head."""

    def make_q_net(self) -> QNetwork:
        """Make one Q-network; SB3 calls this for the online and for the target network."""
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        return DuelingQNetwork(**net_args).to(self.device)


class DuelingCnnPolicy(DuelingMlpPolicy, CnnPolicy):
    """DQN's ``CnnPolicy`` with a dueling head."""


class DuelingMultiInputPolicy(DuelingMlpPolicy, MultiInputPolicy):
    """DQN's ``MultiInputPolicy`` with a dueling head."""
