"""Gradients of an MLP, computed layer by layer as PyTorch's autograd does, without recording a graph.

For a small network, autograd takes longer around each operation than in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

_aten = th.ops.aten
_Function = Callable[..., th.Tensor]
# functions forward and, from the gradient and what forward returned, backward
_ACTIVATIONS: dict[type[nn.Module], tuple[_Function, _Function]] = {
    nn.ReLU: (th.relu, lambda gradient, values: _aten.threshold_backward.default(gradient, values, 0)),
    nn.Tanh: (th.tanh, _aten.tanh_backward.default),
}


class MlpGradients:
    """A forward pass of an MLP, and the backward pass that follows it.

    :param layers: linear layers, ReLU and tanh; their parameters may change at any time, but no two share one
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = [
            (vars(layer), None) if type(layer) is nn.Linear else (None, _ACTIVATIONS[type(layer)]) for layer in layers
        ]
        self._passed: list[th.Tensor] = []

    @staticmethod
    def can_run(layers: list[nn.Module]) -> bool:
        """Return whether all layers are known, the first is linear, and no linear layer is there twice."""
        linear = [layer for layer in layers if type(layer) is nn.Linear]
        is_known = all(type(layer) is nn.Linear or type(layer) in _ACTIVATIONS for layer in layers)
        return is_known and bool(linear) and layers[0] is linear[0] and len({*linear}) == len(linear)

    @th.no_grad()
    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return the values (batch, outputs) of observations (batch, features)."""
        values = observations.float()
        self._passed = []
        for attributes, activation in self._layers:
            self._passed.append(values)
            if attributes is not None:
                parameters = attributes["_parameters"]
                values = F.linear(values, parameters["weight"], parameters["bias"])
            else:
                values = activation[0](values)  # type: ignore[index]
        self._passed.append(values)
        return values

    @th.no_grad()
    def backward(self, gradient: th.Tensor) -> list[th.Tensor]:
        """Return the gradients of the parameters, in their order, of the last forward pass.

        :param gradient: of the values (batch, outputs)
        """
        gradients: list[th.Tensor] = []
        first = self._layers[0][0]
        for index in range(len(self._layers) - 1, -1, -1):
            attributes, activation = self._layers[index]
            if attributes is None:
                gradient = activation[1](gradient, self._passed[index + 1])  # type: ignore[index]
                continue
            parameters: dict[str, Any] = attributes["_parameters"]
            if parameters["bias"] is not None:
                gradients.append(gradient.sum(0))
            gradients.append(gradient.t().mm(self._passed[index]))
            if attributes is not first:
                gradient = gradient.mm(parameters["weight"])
        gradients.reverse()
        return gradients
