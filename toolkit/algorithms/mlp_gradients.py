"""Gradients of an MLP, computed layer by layer as PyTorch's autograd does, without recording a graph.

For a small network, autograd takes longer around each operation than in it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from toolkit.algorithms.stock import get_parameters

# naming the form spares PyTorch the search for it
_relu_backward, _tanh_backward = th.ops.aten.threshold_backward.grad_input, th.ops.aten.tanh_backward.grad_input
_Function = Callable[..., th.Tensor]
# functions forward, in place; then backward, from the gradient, what forward returned, and where to write the result
_ACTIVATIONS: dict[type[nn.Module], tuple[_Function, _Function]] = {
    nn.ReLU: (th.relu_, lambda gradient, values, out: _relu_backward(gradient, values, 0, grad_input=out)),
    nn.Tanh: (th.tanh_, lambda gradient, values, out: _tanh_backward(gradient, values, grad_input=out)),
}


class MlpGradients:
    """The forward pass of an MLP, and the backward pass that follows it. Both are to be called without autograd.

    :param layers: linear layers, ReLU and tanh; their parameters may change at any time, but no two share one
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = [
            (vars(layer), None) if type(layer) is nn.Linear else (None, _ACTIVATIONS[type(layer)]) for layer in layers
        ]
        self._attributes = [attributes for attributes, _ in self._layers if attributes is not None]

    @staticmethod
    def can_run(layers: list[nn.Module]) -> bool:
        """Return whether this class supports the layers.

        All are Linear, ReLU or Tanh. The first is a Linear layer, each activation directly follows one, and no Linear
        layer occurs twice.
        """
        linear = [layer for layer in layers if type(layer) is nn.Linear]
        is_known = all(type(layer) is nn.Linear or type(layer) in _ACTIVATIONS for layer in layers)
        follows = all(nn.Linear in map(type, pair) for pair in pairwise(layers))
        return is_known and follows and bool(linear) and layers[0] is linear[0] and len({*linear}) == len(linear)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the layers have now, in their order."""
        return get_parameters(self._attributes)

    def forward(self, inputs: th.Tensor) -> list[th.Tensor]:
        """Return the inputs (batch, features) as float32, then what each layer or its activation gives."""
        values = inputs.float()
        passed = [values]
        for attributes, activation in self._layers:
            if attributes is None:
                activation[0](values)  # type: ignore[index]
                continue
            parameters = attributes["_parameters"]
            values = F.linear(values, parameters["weight"], parameters["bias"])
            passed.append(values)
        return passed

    def backward(
        self, passed: list[th.Tensor], gradient: th.Tensor, of_parameters: bool = True, of_inputs: bool = False
    ) -> tuple[list[th.Tensor], th.Tensor | None]:
        """Return the gradients of the parameters, in their order, and that of the inputs.

        :param passed: what the forward pass returned
        :param gradient: of the values (batch, outputs)
        :param of_parameters: whether the parameters' gradients are wanted; if not, their list is empty
        :param of_inputs: whether the inputs' gradient is wanted; if not, it is None
        """
        gradients: list[th.Tensor] = []
        given, index = gradient, len(passed) - 1
        for attributes, activation in reversed(self._layers):
            if attributes is None:
                out = th.empty_like(gradient) if gradient is given else gradient
                gradient = activation[1](gradient, passed[index], out)
                continue
            index -= 1
            parameters: dict[str, Any] = attributes["_parameters"]
            if of_parameters:
                if parameters["bias"] is not None:
                    gradients.append(gradient.sum(0))
                gradients.append(gradient.t().mm(passed[index]))
            if index or of_inputs:
                gradient = gradient.mm(parameters["weight"])
        gradients.reverse()
        return gradients, gradient if of_inputs else None
