"""Q-values of a Q-network without what SB3 and PyTorch do around its layers.

SB3 switches the network's mode at every step and prepares observations that are ready already. For a small network
that, and what PyTorch does around each module, takes longer than the layers. :class:`FastQNetwork` takes the first way
that gives the network's own Q-values:

1. NumPy, for the greedy actions of a few vectors: linear layers with ReLU or tanh, in the CPU's memory
2. the layers as functions, for vectors of float32: an MLP of known layers
3. the network itself, in its current mode: only known modules, which compute the same in both modes
4. the network itself, in the right mode: evaluation without gradients, training with them

A hook on a module rules out the first two, as only a module's own call runs hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.policies import DuelingHead, DuelingQNetwork

_MODULES_WITHOUT_MODES = {
    *(nn.Sequential, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Linear, nn.Conv2d, nn.LayerNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid),
    *(QNetwork, DuelingQNetwork, DuelingHead, FlattenExtractor, NatureCNN, CombinedExtractor),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MAX_NUMPY_MULTIPLICATIONS = 32_768  # in a layer; with more, arithmetic counts, and NumPy's library may start threads


class FastQNetwork:
    """A Q-network as a function of observations. The module's docstring lists its ways and when it takes each.

    :param network: its modules stay the same; their weights may change at any time
    """

    def __init__(self, network: QNetwork) -> None:
        self.network = network
        self.has_modes = any(type(module) not in _MODULES_WITHOUT_MODES for module in network.modules())
        self._hooks = [vars(module)[name] for module in network.modules() for name in _HOOKS if name in vars(module)]
        layers = [*network.q_net] if _is_mlp(network) and not self.has_modes else []
        self._layers = [_as_function(layer) for layer in layers]
        self._numpy_layers = _NumpyLayers(layers) if _NumpyLayers.can_run(layers) else None

    @property
    def has_bare_layers(self) -> bool:
        """Whether layers are called as functions, as long as no module has a hook."""
        return bool(self._layers)

    @property
    def has_hooks(self) -> bool:
        """Whether a module has hooks, which only the module's own call runs."""
        return any(self._hooks)

    def choose_greedy_actions(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return the actions (batch,) with the highest Q-values for an array of observations (batch, ...)."""
        numpy_layers = self._numpy_layers
        if numpy_layers and len(observations) <= numpy_layers.max_observations and not self.has_hooks:
            return numpy_layers(observations).argmax(axis=1)  # type: ignore[no-any-return]
        with th.no_grad():
            return self(th.from_numpy(observations).to(self.network.device)).argmax(dim=1).cpu().numpy()

    def __call__(self, observations: PyTorchObs) -> th.Tensor:
        """Return the Q-values (batch, actions) of observations (batch, ...)."""
        if self.has_bare_layers and not self.has_hooks:
            values: Any = observations.float()  # type: ignore[union-attr]
            for layer in self._layers:
                values = layer(values)
            return values  # type: ignore[no-any-return]
        mode = self.network.training
        if not self.has_modes or mode == th.is_grad_enabled():
            return self.network(observations)  # type: ignore[no-any-return]
        self.network.set_training_mode(not mode)
        values = self.network(observations)
        self.network.set_training_mode(mode)
        return values  # type: ignore[no-any-return]


def _is_mlp(network: QNetwork) -> bool:
    """Return whether a network's Q-values are those of its layers, called in turn on vectors of float32."""
    space = network.observation_space
    is_vector = len(space.shape or ()) == 1 and space.dtype == np.float32
    is_stock = type(network) in (QNetwork, DuelingQNetwork) and type(network.features_extractor) is FlattenExtractor
    return is_vector and is_stock


def _as_function(layer: nn.Module) -> Callable[[th.Tensor], th.Tensor]:
    """Return what a layer computes, without its module's look-up of parameters."""
    if type(layer) is nn.Linear:
        return partial(_linear, layer._parameters)  # not a closure: `deepcopy` has to reach the parameters
    return th.relu if type(layer) is nn.ReLU else layer.forward


def _linear(parameters: dict[str, Any], values: th.Tensor) -> th.Tensor:
    return F.linear(values, parameters["weight"], parameters["bias"])


class _NumpyLayers:
    """Layers of a network in the CPU's memory, run by NumPy on the same weights.

    For a small network NumPy needs a quarter of PyTorch's time, which is nearly all spent around the arithmetic.
    """

    ACTIVATIONS: ClassVar[dict[type[nn.Module], Callable[[NDArray[Any]], NDArray[Any]]]] = {
        nn.ReLU: lambda values: np.maximum(values, 0, out=values),
        nn.Tanh: lambda values: np.tanh(values, out=values),
    }

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers
        self._parameters = [parameter for layer in layers for parameter in layer.parameters()]
        self._view_weights()
        largest = max(parameter.numel() for parameter in self._parameters)
        self.max_observations = _MAX_NUMPY_MULTIPLICATIONS // largest

    @classmethod
    def can_run(cls, layers: list[nn.Module]) -> bool:
        """Return whether NumPy can run these layers."""
        linear = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
        supported = [*linear, *(layer for layer in layers if type(layer) in cls.ACTIVATIONS)]
        return bool(linear) and len(supported) == len(layers) and linear[0].weight.device.type == "cpu"

    def _view_weights(self) -> None:
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        self._steps = [
            (layer.weight.detach().numpy().T, layer.bias.detach().numpy(), None)
            if isinstance(layer, nn.Linear)
            else (None, None, self.ACTIVATIONS[type(layer)])
            for layer in self._layers
        ]

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return the Q-values (batch, actions) of observations (batch, features)."""
        if [parameter.data_ptr() for parameter in self._parameters] != self._addresses:  # weights have moved
            self._view_weights()
        values = observations
        for weights, bias, activation in self._steps:
            values = activation(values) if activation else values @ weights + bias
        return values
