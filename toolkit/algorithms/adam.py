"""Adam's step and gradient clipping as functions of tensors, without what ``optimizer.step`` does around them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch as th
from torch.optim.adam import adam


class AdamState(NamedTuple):
    """What Adam stores of each parameter, as ``torch.optim.Adam`` does."""

    exp_avgs: list[th.Tensor]
    exp_avg_sqs: list[th.Tensor]
    steps: list[th.Tensor]


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Return whether :func:`step_adam` can replace the optimizer's ``step``.

    It can for an Adam or AdamW with one group of parameters, without AMSGrad, without hooks and with its own ``step``.
    """
    options, *other_groups = optimizer.param_groups
    if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or other_groups:
        return False
    has_other_formula = any(options[name] for name in ("amsgrad", "capturable", "differentiable"))
    has_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return not has_other_formula and not has_hooks and "step" not in vars(optimizer)


def get_adam_state(optimizer: th.optim.Optimizer) -> AdamState | None:
    """Return the state of a plain Adam; ``None`` for another optimizer, and before its first step."""
    if not is_plain_adam(optimizer):
        return None
    states = [optimizer.state.get(parameter) for parameter in optimizer.param_groups[0]["params"]]
    if not all(states):
        return None
    return AdamState(*([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")))  # type: ignore[index]


@th.no_grad()
def step_adam(
    options: dict[str, Any], parameters: Any, gradients: list[th.Tensor], state: AdamState, **overrides: Any
) -> None:
    """Make one step of Adam in place.

    :param options: the optimizer's group of parameters
    :param overrides: options that replace those of the group
    """
    options = options | overrides
    beta1, beta2 = options["betas"]
    if options["fused"] and len({(parameter.device, parameter.dtype) for parameter in parameters}) == 1:
        # `adam` calls these in the end, and takes five times as long
        th._foreach_add_(state.steps, 1)
        fused_step = th._fused_adamw_ if options["decoupled_weight_decay"] else th._fused_adam_
        values = {name: options[name] for name in ("lr", "weight_decay", "eps", "maximize", "amsgrad")}
        fused_step(parameters, gradients, *state[:2], [], state.steps, beta1=beta1, beta2=beta2, **values)
        return
    names = ("foreach", "fused", "lr", "weight_decay", "eps", "maximize", "decoupled_weight_decay")
    values = {name: options[name] for name in names}
    adam(parameters, gradients, *state[:2], [], state.steps, amsgrad=False, beta1=beta1, beta2=beta2, **values)


def clip_gradients(gradients: list[th.Tensor], max_norm: float) -> None:
    """Scale gradients in place to a total norm of at most ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does."""
    if max_norm == math.inf:
        return
    # the compiler makes one loop of the list; uncompiled, one call is faster
    is_compiling = th.compiler.is_compiling()
    norms = [th.linalg.vector_norm(grad) for grad in gradients] if is_compiling else th._foreach_norm(gradients)
    scale = th.clamp(max_norm / (th.linalg.vector_norm(th.stack(norms)) + 1e-6), max=1.0)
    th._foreach_mul_(gradients, scale)
