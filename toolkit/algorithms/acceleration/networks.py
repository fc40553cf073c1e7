"""MLPs that are one operation for PyTorch's autograd, instead of one for each layer and parameter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import torch as th
from torch import nn
from torch.autograd.function import once_differentiable

from toolkit.algorithms.acceleration.functions import are_plain
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.mlp_gradients import MlpGradients
from toolkit.algorithms.stock import Watch, is_torch_plain, store_plainly


class Mlp:
    """Layers, and what it takes to notice that they no longer compute what they did at first.

    :param layers: linear layers, ReLU and tanh
    :param owners: the modules that call them
    """

    def __init__(self, layers: list[nn.Module], owners: list[nn.Module]) -> None:
        self.gradients = MlpGradients(layers)
        #: whether a backward pass computes the gradients of the parameters, or that of the inputs only
        self.is_learning = True
        self._watch = Watch([*owners, *layers])

    @staticmethod
    def can_run(layers: list[nn.Module], owners: list[nn.Module]) -> bool:
        """Return whether the layers are known ones, each with parameters of its own."""
        return MlpGradients.can_run(layers) and store_plainly([*owners, *layers])

    def is_current(self) -> bool:
        """Return whether the layers still are what they were at first, with nothing around them."""
        return (
            are_plain([*self.gradients.parameters])
            and self._watch.is_unchanged()
            and not self._watch.has_hooks
            and is_torch_plain()
        )


def save_tensors(ctx: Any, *groups: Sequence[th.Tensor]) -> None:
    """Save groups of tensors for a backward pass, which autograd refuses if one of them is changed before."""
    ctx.lengths = [*map(len, groups)]
    ctx.save_for_backward(*chain(*groups))


def load_tensors(ctx: Any) -> list[list[th.Tensor]]:
    """Return the groups of tensors that :func:`save_tensors` saved."""
    saved = iter(ctx.saved_tensors)
    return [[*islice(saved, length)] for length in ctx.lengths]


class _MlpFunction(th.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mlp: Mlp, inputs: th.Tensor, *parameters: th.Tensor) -> th.Tensor:
        passed = mlp.gradients.forward(inputs)
        ctx.mlp = mlp
        save_tensors(ctx, passed, parameters)
        return passed[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[Any, ...]:
        passed, parameters = load_tensors(ctx)
        is_learning, of_inputs = ctx.mlp.is_learning, ctx.needs_input_grad[1]
        gradients, of_input = ctx.mlp.gradients.backward(passed, gradient, is_learning, of_inputs)
        return None, of_input, *(gradients if is_learning else [None] * len(parameters))


MLPS: dict[nn.Module, Mlp] = {}  # of the models that train now


class FastSequential(nn.Sequential, Replacement):
    """Replaces the class of an MLP; computes the same."""

    def forward(self, input: th.Tensor) -> th.Tensor:
        """Return the values (batch, outputs) of inputs (batch, features)."""
        mlp = MLPS.get(self)
        if mlp is None or input.dim() != 2 or not are_plain([input]) or not mlp.is_current():
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        if th.is_grad_enabled():
            return _MlpFunction.apply(mlp, input, *mlp.gradients.parameters)  # type: ignore[no-any-return, no-untyped-call]
        return mlp.gradients.forward(input)[-1]


def can_be_fast(module: nn.Module) -> bool:
    """Return whether the class of a module may be replaced by that of a fast MLP."""
    return type(module) is nn.Sequential and Mlp.can_run([*module], [module])
