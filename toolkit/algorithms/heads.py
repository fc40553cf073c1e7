"""The last layers of a Q-network: dueling streams and noisy linear layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

_SIGMA = 0.5  # sigma_0 of Fortunato et al. (2018), section 3.2


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


class DistributionalDuelingHead(nn.Module):
    """Joins both streams for each atom of a distribution: ``V_i + A_i - mean(A_i)``, as Rainbow does.

    Paper: Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning" (2018),
    https://arxiv.org/abs/1710.02298, section 3.

    :param features_dim: size of the input
    :param action_dim: number of actions
    :param n_atoms: outputs for each action
    """

    def __init__(self, features_dim: int, action_dim: int, n_atoms: int) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        self.value = nn.Linear(features_dim, n_atoms)
        self.advantage = nn.Linear(features_dim, action_dim * n_atoms)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Map features (batch, features_dim) to outputs (batch, action_dim * n_atoms)."""
        advantage: th.Tensor = self.advantage(features).reshape(len(features), -1, self.n_atoms)
        value: th.Tensor = self.value(features).unsqueeze(1)
        return (value + advantage - advantage.mean(dim=1, keepdim=True)).flatten(1)


class NoisyLinear(nn.Linear):
    """A linear layer with factorised Gaussian noise on its weights, whose size is learned.

    ``y = (mu_w + sigma_w * outer(f(e_out), f(e_in))) x + mu_b + sigma_b * f(e_out)``, with standard normal ``e_in``
    and ``e_out``, and ``f(e) = sign(e) * sqrt(|e|)``. ``weight`` and ``bias`` are the means. They start uniform in
    ``+- 1 / sqrt(in_features)``, as PyTorch's own, and sigma starts at ``0.5 / sqrt(in_features)``.

    The layer has noise inside :func:`draw_noise` only. Otherwise it computes with the means.

    Paper: Fortunato et al., "Noisy Networks for Exploration" (2018), https://arxiv.org/abs/1706.10295, equations 9 to
    11 and section 3.2.

    :param in_features: size of the input
    :param out_features: size of the output
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        sigma = _SIGMA / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(th.full((out_features, in_features), sigma))
        self.bias_sigma = nn.Parameter(th.full((out_features,), sigma))
        #: ``f(e_in)`` and ``f(e_out)``; ``None`` without noise
        self.noise: tuple[th.Tensor, th.Tensor] | None = None

    def forward(self, input: th.Tensor) -> th.Tensor:
        """Map inputs (batch, in_features) to outputs (batch, out_features), with the same noise in the whole batch."""
        means = F.linear(input, self.weight, self.bias)
        if self.noise is None:
            return means
        noise_in, noise_out = self.noise
        return means + noise_out * F.linear(input * noise_in, self.weight_sigma, self.bias_sigma)


@contextmanager
def draw_noise(network: nn.Module) -> Iterator[None]:
    """Draw new noise for the noisy layers of a network, if any, from torch's global generator, for this block."""
    layers = _find_noisy_layers(network)
    if layers:
        sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
        values = th.randn(sum(sizes), device=layers[0].weight.device)
        scaled = th.split(values.sign() * values.abs().sqrt(), sizes)
        for layer, noise_in, noise_out in zip(layers, scaled[::2], scaled[1::2], strict=True):
            layer.__dict__["noise"] = noise_in, noise_out
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__["noise"] = None


def _find_noisy_layers(network: nn.Module) -> list[NoisyLinear]:
    """Return the noisy layers of a network in a fraction of the time of ``modules()``."""
    modules = [network]
    for module in modules:
        modules += filter(None, module._modules.values())
    return [module for module in modules if isinstance(module, NoisyLinear)]


def draw_noise_in_calls(network: nn.Module, function: Callable[..., th.Tensor]) -> Callable[..., th.Tensor]:
    """Return a function that computes by a network, with new noise in each call."""

    def compute(*args: Any) -> th.Tensor:
        with draw_noise(network):
            return function(*args)

    return compute


def make_layers_noisy(module: nn.Module) -> None:
    """Replace the linear layers in a module by noisy ones of the same sizes."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, NoisyLinear(child.in_features, child.out_features))
        else:
            make_layers_noisy(child)
