"""Layer normalization."""

import stable_baselines3
import torch
from toolkit.testing import check_policy
from torch import nn

from cartpole_extras.policies import LayerNormPolicy


def test_layer_norm_policy_passes_conformance_check() -> None:
    check_policy("LayerNormPolicy", params={"net_arch": [8]}, algorithm="dqn")


def test_hidden_layers_are_normalized_but_q_values_are_not() -> None:
    model = stable_baselines3.DQN(LayerNormPolicy, "CartPole-v1", policy_kwargs={"net_arch": [16, 8]})
    expected = [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    for network in (model.q_net, model.q_net_target):
        assert [type(layer) for layer in network.q_net] == expected
    observations = torch.rand(100, 4) * 1_000
    before_activation = model.q_net.q_net[:2](observations)
    assert torch.allclose(before_activation.mean(dim=1), torch.zeros(100), atol=1e-4)
    assert torch.allclose(before_activation.std(dim=1, correction=0), torch.ones(100), atol=1e-2)
