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
_layer_norm = th.ops.aten.native_layer_norm.default
_layer_norm_backward = th.ops.aten.native_layer_norm_backward.default
_Function = Callable[..., th.Tensor]
# functions forward, in place; then backward, from the gradient, what forward returned, and where to write the result
_ACTIVATIONS: dict[type[nn.Module], tuple[_Function, _Function]] = {
    nn.ReLU: (th.relu_, lambda gradient, values, out: _relu_backward(gradient, values, 0, grad_input=out)),
    nn.Tanh: (th.tanh_, lambda gradient, values, out: _tanh_backward(gradient, values, grad_input=out)),
}


class MlpGradients:
    """The forward pass of an MLP, and the backward pass that follows it. Both are to be called without autograd.

    :param layers: linear layers, layer normalizations, ReLU and tanh; their parameters may change at any time, but no
        two share one
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = [(vars(layer), _ACTIVATIONS.get(type(layer)), type(layer) is nn.LayerNorm) for layer in layers]
        self._attributes = [attributes for attributes, activation, _ in self._layers if activation is None]

    @staticmethod
    def can_run(layers: list[nn.Module]) -> bool:
        """Return whether this class supports the layers.

        All are Linear, LayerNorm, ReLU or Tanh. The first is a Linear layer, each activation directly follows a Linear
        or LayerNorm, and none of these occurs twice.
        """
        learning = [layer for layer in layers if type(layer) is nn.Linear or _is_layer_norm_of_vectors(layer)]
        is_known = all(layer in learning or type(layer) in _ACTIVATIONS for layer in layers)
        follows = all(layer in learning or before in learning for before, layer in pairwise(layers))
        is_first_linear = bool(layers) and type(layers[0]) is nn.Linear
        return is_known and follows and is_first_linear and len({*learning}) == len(learning)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the layers have now, in their order."""
        return get_parameters(self._attributes)

    def forward(self, inputs: th.Tensor) -> list[th.Tensor]:
        """Return the inputs (batch, features) as float32, then what each layer or its activation gives.

        Before what a normalization gives are the means and the inverse deviations, (batch, 1).
        """
        values = inputs.float()
        passed = [values]
        for attributes, activation, is_norm in self._layers:
            if activation is not None:
                activation[0](values)
                continue
            parameters = attributes["_parameters"]
            weight, bias = parameters["weight"], parameters["bias"]
            if is_norm:
                values, *moments = _layer_norm(values, attributes["normalized_shape"], weight, bias, attributes["eps"])
                passed += moments
            else:
                values = F.linear(values, weight, bias)
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
        for attributes, activation, is_norm in reversed(self._layers):
            if activation is not None:
                out = th.empty_like(gradient) if gradient is given else gradient
                gradient = activation[1](gradient, passed[index], out)
                continue
            parameters: dict[str, Any] = attributes["_parameters"]
            if is_norm:
                index -= 3
                gradient, *of_norm = _differentiate_norm(
                    attributes, gradient, passed[index : index + 3], of_parameters
                )
                gradients += reversed(of_norm)
                continue
            index -= 1
            if of_parameters:
                if parameters["bias"] is not None:
                    gradients.append(gradient.sum(0))
                gradients.append(gradient.t().mm(passed[index]))
            if index or of_inputs:
                gradient = gradient.mm(parameters["weight"])
        gradients.reverse()
        return gradients, gradient if of_inputs else None


def _is_layer_norm_of_vectors(layer: nn.Module) -> bool:
    is_known = type(layer) is nn.LayerNorm and len(layer.normalized_shape) == 1
    return is_known and layer._parameters.keys() >= {"weight", "bias"} and None not in layer._parameters.values()


def _differentiate_norm(
    attributes: dict[str, Any], gradient: th.Tensor, passed: list[th.Tensor], of_parameters: bool
) -> list[th.Tensor]:
    """Return the gradient of a layer normalization's input, then those of its weight and bias if they are wanted.

    :param passed: the input, its means and its inverse deviations
    """
    weight, bias = attributes["_parameters"]["weight"], attributes["_parameters"]["bias"]
    wanted = [True, of_parameters, of_parameters]
    shape = attributes["normalized_shape"]
    gradients = _layer_norm_backward(gradient, passed[0], shape, passed[1], passed[2], weight, bias, wanted)
    return [each for each in gradients if each is not None]
