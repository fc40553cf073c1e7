"""Q-values of a Q-network without what SB3 and PyTorch do around its layers.

For a small network, what PyTorch does around each module takes longer than the layers. So an MLP of known layers
computes in one of two shorter ways:

1. NumPy, for the greedy actions of a few vectors: linear layers with ReLU or tanh, in the CPU's memory
2. the layers as functions, for vectors

Both leave out SB3's and PyTorch's methods, the modules' hooks and their modes. They are taken only while all of these
are stock: :attr:`FastQNetwork.is_fast`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common import policies as sb3_policies
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.heads import DuelingHead
from toolkit.algorithms.mlp_gradients import MlpGradients
from toolkit.algorithms.policies import DuelingQNetwork
from toolkit.algorithms.stock import (
    evaluation_mode,
    get_functions,
    get_parameters,
    hides_class_attribute,
    is_torch_plain,
)
from toolkit.algorithms.targets import QFunction

_MODULES_WITHOUT_MODES = {
    *(nn.Sequential, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Linear, nn.Conv2d, nn.LayerNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid),
    *(QNetwork, DuelingQNetwork, DuelingHead, FlattenExtractor, NatureCNN, CombinedExtractor),
}
_CONSTANTS: dict[type[nn.Module], str] = {
    nn.LeakyReLU: "negative_slope",
    nn.ELU: "alpha",
    nn.GELU: "approximate",
    nn.LayerNorm: "eps",
}
FORWARD_FUNCTIONS = get_functions(
    [
        *((nn.Module, name) for name in ("__call__", "train")),
        *((BaseModel, name) for name in ("extract_features", "set_training_mode")),
        *((module, "forward") for module in _MODULES_WITHOUT_MODES),
        (sb3_policies, "preprocess_obs"),
    ]
)
_get_parameters = operator.itemgetter("_parameters")
_FLOAT32 = np.dtype(np.float32)
_MAX_NUMPY_MULTIPLICATIONS = 32_768  # in a layer; with more, arithmetic counts, and NumPy's library may start threads


def find_constants(modules: list[nn.Module]) -> list[tuple[dict[str, Any], str]]:
    """Return where modules have the numbers that they compute with, such as a slope: attributes and a name."""
    return [(vars(module), _CONSTANTS[type(module)]) for module in modules if type(module) in _CONSTANTS]


def are_known(modules: list[nn.Module]) -> bool:
    """Return whether all modules are of known classes, with the methods of these."""
    are_known = all(type(module) in _MODULES_WITHOUT_MODES for module in modules)
    return are_known and not any(map(hides_class_attribute, modules))


class FastQNetwork:
    """A Q-network as a function of observations. The module's docstring says how.

    :param network: its parameters may change at any time, its modules may not
    :param is_known: whether :func:`are_known` its modules
    """

    def __init__(self, network: nn.Module, is_known: bool) -> None:
        self.network = network
        self.is_known = is_known
        layers: list[nn.Module] = [*network.q_net] if is_known and _is_mlp(network) else []  # type: ignore[misc]
        #: whether the network is an MLP of known layers, so that it is fast as long as nothing is put around these
        self.has_bare_layers = bool(layers)
        self._layers = [_as_function(layer) for layer in layers]
        #: computes gradients of an MLP on the CPU; None for other networks
        self.gradients = MlpGradients(layers) if MlpGradients.can_run(layers) else None
        self._numpy_layers = _NumpyLayers(layers) if _NumpyLayers.can_run(layers) else None
        self._attributes = [vars(module) for module in network.modules() if module._parameters]
        self._space = getattr(network, "observation_space", None)
        self._n_features = self._space.shape[0] if layers else None  # type: ignore[union-attr]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the modules have now, if they are those that had some at first."""
        return get_parameters(self._attributes)

    def get_function(self, is_stock: bool) -> QFunction:
        """Return the fastest function from observations to the network's Q-values.

        :param is_stock: whether its modules are known ones with nothing around them now. If not, values without
            gradients are those of evaluation mode
        """
        if not is_stock:
            return self._compute_in_right_mode
        return self.compute_by_layers if self.has_bare_layers else self.network

    def accepts(self, observations: Any) -> bool:
        """Return whether the layers alone compute Q-values of observations as the network in evaluation mode does."""
        if type(observations) is not np.ndarray or observations.dtype != _FLOAT32 or observations.ndim != 2:
            return False
        attributes = vars(self.network)
        is_current = attributes["observation_space"] is self._space and not attributes["training"]
        return is_current and observations.shape[1] == self._n_features

    def choose_greedy_actions(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the actions (batch,) with the highest Q-values for observations (batch, features)."""
        numpy_layers = self._numpy_layers
        if numpy_layers and len(observations) <= numpy_layers.max_observations and is_torch_plain():
            values = numpy_layers(observations)
            if values is not None:
                return values.argmax(axis=1)  # type: ignore[no-any-return]
        with th.no_grad():
            tensor = th.tensor(observations, device=self.parameters[0].device)
            return self.compute_by_layers(tensor).argmax(dim=1).cpu().numpy()

    def compute_by_layers(self, observations: PyTorchObs) -> th.Tensor:
        """Return the Q-values (batch, actions) of observations (batch, features) by the layers as functions."""
        values = observations.float()  # type: ignore[union-attr]
        for attributes, function in self._layers:
            if attributes is None:
                values = function(values)
            else:  # a linear layer, without its module's look-up of parameters
                parameters = attributes["_parameters"]
                values = function(values, parameters["weight"], parameters["bias"])
        return values

    def _compute_in_right_mode(self, observations: PyTorchObs) -> th.Tensor:
        if th.is_grad_enabled() or not self.network.training:
            return self.network(observations)  # type: ignore[no-any-return]
        with evaluation_mode(self.network):  # type: ignore[arg-type]
            return self.network(observations)  # type: ignore[no-any-return]


def _is_mlp(network: Any) -> bool:
    """Return whether a network's Q-values are those of its layers, called in turn on vectors of float32."""
    space = getattr(network, "observation_space", None)
    is_vector = len(getattr(space, "shape", None) or ()) == 1 and space.dtype == np.float32  # type: ignore[union-attr]
    is_stock = type(network) in (QNetwork, DuelingQNetwork) and type(network.features_extractor) is FlattenExtractor
    return (
        is_vector and is_stock and type(network.q_net) is nn.Sequential and all(map(_has_own_weights, network.q_net))
    )


def _has_own_weights(layer: nn.Module) -> bool:
    """Return whether a linear layer's weights are parameters, not tensors that something else computes."""
    return type(layer) is not nn.Linear or layer._parameters.keys() >= {"weight", "bias"}


def _as_function(layer: nn.Module) -> tuple[dict[str, Any] | None, Callable[..., th.Tensor]]:
    """Return a linear layer's attributes, or ``None`` for another layer, and the function that it computes."""
    if type(layer) is nn.Linear:
        return vars(layer), F.linear
    return None, th.relu if type(layer) is nn.ReLU else layer.forward


def _apply_relu(values: NDArray[Any]) -> None:
    np.maximum(values, 0, out=values)


def _apply_tanh(values: NDArray[Any]) -> None:
    np.tanh(values, out=values)


_ACTIVATIONS: dict[type[nn.Module], Callable[[NDArray[Any]], None]] = {nn.ReLU: _apply_relu, nn.Tanh: _apply_tanh}


class _NumpyLayers:
    """Layers of a network in the CPU's memory, run by NumPy on the same weights.

    For a small network NumPy needs a quarter of PyTorch's time, which is nearly all spent around the arithmetic.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = layers
        self._attributes = [vars(layer) for layer in layers if layer._parameters]
        largest = max(parameter.numel() for layer in layers for parameter in layer.parameters())
        self.max_observations = _MAX_NUMPY_MULTIPLICATIONS // largest
        self._places: list[Any] = []

    @staticmethod
    def can_run(layers: list[nn.Module]) -> bool:
        """Return whether NumPy can run these layers."""
        linear = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
        supported = [*linear, *(layer for layer in layers if type(layer) in _ACTIVATIONS)]
        return bool(linear) and len(supported) == len(layers)

    def __call__(self, observations: NDArray[Any]) -> NDArray[Any] | None:
        """Return the Q-values (batch, actions) of observations (batch, features).

        ``None`` if the weights are not float32 in the CPU's memory.
        """
        registries = map(_get_parameters, self._attributes)
        parameters: list[Any] = [*chain.from_iterable(map(dict.values, registries))]
        places = [*map(th.Tensor.data_ptr, parameters)]
        if places != self._places:  # the weights have moved
            self._places, self._steps = places, self._view_weights() if all(map(_is_viewable, parameters)) else []
        if not self._steps:
            return None
        values = observations
        for weights, bias, activation in self._steps:
            if activation:
                activation(values)
            else:
                values = values.dot(weights)  # `@` takes twice as long
                values += bias
        return values

    def _view_weights(self) -> list[Any]:
        # `Tensor.numpy` would forbid to resize the weights for good, by which sharing or pruning them fails
        return [
            (np.from_dlpack(layer.weight.detach()).T, np.from_dlpack(layer.bias.detach()), None)
            if isinstance(layer, nn.Linear)
            else (None, None, _ACTIVATIONS[type(layer)])
            for layer in self._layers
        ]


def _is_viewable(parameter: Any) -> bool:
    """Return whether NumPy can read a parameter where it is."""
    is_plain = type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.dtype == th.float32
    if not is_plain or not parameter.is_contiguous():
        return False
    last = parameter.storage_offset() + parameter.numel()
    return bool(parameter.untyped_storage().nbytes() >= last * parameter.element_size())
