"""Adam and AdamW that step in one call for all parameters, without what PyTorch does around the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th

from toolkit.algorithms.acceleration.functions import are_plain
from toolkit.algorithms.acceleration.networks import Mlp
from toolkit.algorithms.acceleration.replacement import Replacement
from toolkit.algorithms.adam import (
    create_adam_state,
    get_adam_state,
    has_plain_adam_methods,
    is_plain_adam,
    may_be_fused,
    step_adam,
)

CRITICS_OF_ACTORS: dict[th.optim.Optimizer, list[Mlp]] = {}
"""Critics that compute no gradients of their parameters between ``zero_grad`` and ``step`` of an actor's optimizer,
of the models that train now. The critics' optimizer would set these gradients to None."""
CRITICS: dict[th.optim.Optimizer, list[Mlp]] = {}
"""The same critics, by their own optimizer, whose ``zero_grad`` ends that."""


class _FusedStep(th.optim.Optimizer, Replacement):
    """Replaces methods of an Adam. Its options and state stay as they are, so that Adam can continue with them."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Do what Adam's method of this name does, in its fused form, or else Adam's method itself."""
        self._let_critics_learn(CRITICS_OF_ACTORS, True)
        options = self.param_groups[0]
        gradients: list[Any] = [parameter.grad for parameter in options["params"]]
        if closure is not None or not is_plain_adam(self) or any(gradient is None for gradient in gradients):
            return super().step(closure)
        if not may_be_fused(options) or not are_plain(gradients):
            return super().step(closure)
        state = get_adam_state(self) or create_adam_state(self)
        step_adam(options, options["params"], gradients, state, fused=True)
        return None

    step.hooked = True  # type: ignore[attr-defined]  # or else PyTorch would run the optimizer's hooks here and in `super`

    def _let_critics_learn(self, critics: dict[th.optim.Optimizer, list[Mlp]], are_learning: bool) -> None:
        for mlp in critics.get(self, ()):
            mlp.is_learning = are_learning

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do what PyTorch's method of this name does."""
        self._let_critics_learn(CRITICS, True)
        self._let_critics_learn(CRITICS_OF_ACTORS, len(self.param_groups) > 1)  # a group may hold a critic's
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class FastAdam(_FusedStep, th.optim.Adam):
    """Adam with the methods above."""


class FastAdamW(_FusedStep, th.optim.AdamW):
    """AdamW with the methods above."""


_FAST_CLASSES = {th.optim.Adam: FastAdam, th.optim.AdamW: FastAdamW}


def find_fast_optimizer(optimizer: Any) -> type | None:
    """Return the class that may take over an optimizer; None if none may."""
    is_plain = type(optimizer) in _FAST_CLASSES and has_plain_adam_methods(optimizer)
    return _FAST_CLASSES[type(optimizer)] if is_plain else None
