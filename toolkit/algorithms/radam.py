"""RAdam's step as functions of tensors in the CPU's memory, by Adam's fused form.

Paper: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (2020),
https://arxiv.org/abs/1908.03265, algorithm 2.
"""

from __future__ import annotations

import math

import torch as th

from toolkit.algorithms.adam import AdamState, create_adam_state, get_adam_state, has_hooks, step_adam, unwrap_step

_STEP = unwrap_step(th.optim.RAdam)
_MIN_RHO = 5.0  # below it, as in the first five steps, RAdam does not divide by the deviation


def is_plain_radam(optimizer: th.optim.Optimizer) -> bool:
    """Return whether :func:`step_radam` can replace the ``step`` of an optimizer now.

    It can for one group of parameters in the CPU's memory, without weight decay and without hooks.
    """
    cls, groups = type(optimizer), optimizer.param_groups
    is_own = cls is th.optim.RAdam and unwrap_step(cls) is _STEP and vars(optimizer).keys().isdisjoint(_METHODS)
    if not is_own or len(groups) != 1 or has_hooks(optimizer):
        return False
    options = groups[0]
    is_simple = not (options["weight_decay"] or options["maximize"] or options["differentiable"])
    return is_simple and not options["capturable"]


_METHODS = ("step", "zero_grad")


def step_radam(optimizer: th.optim.Optimizer, gradients: list[th.Tensor]) -> None:
    """Make one step of a plain RAdam in place.

    With t the number of the step, m and v Adam's moments, rho_max = 2 / (1 - beta2) - 1 and
    rho = rho_max - 2 t beta2^t / (1 - beta2^t), a step is that of Adam with its learning rate multiplied by

        sqrt((rho - 4) (rho - 2) rho_max / ((rho_max - 4) (rho_max - 2) rho))

    where rho is above 5, and else m / (1 - beta1^t) times the learning rate. PyTorch's RAdam adds its ``eps`` to the
    deviation before the correction of its bias, and Adam's adds it after.
    """
    options = optimizer.param_groups[0]
    state: AdamState = get_adam_state(optimizer) or create_adam_state(optimizer)
    beta1, beta2 = options["betas"]
    step = int(state.steps[0].item()) + 1
    bias_correction = 1 - beta2**step
    rho_max = 2 / (1 - beta2) - 1
    rho = rho_max - 2 * step * beta2**step / bias_correction
    if rho > _MIN_RHO:
        factor = math.sqrt((rho - 4) * (rho - 2) * rho_max / ((rho_max - 4) * (rho_max - 2) * rho))
        lr, eps = options["lr"] * factor, options["eps"] / math.sqrt(bias_correction)
        step_adam(options, options["params"], gradients, state, fused=True, amsgrad=False, lr=lr, eps=eps)
        return
    with th.no_grad():
        th._foreach_add_(state.steps, 1)
        th._foreach_lerp_(state.exp_avgs, gradients, 1 - beta1)
        th._foreach_mul_(state.exp_avg_sqs, beta2)
        th._foreach_addcmul_(state.exp_avg_sqs, gradients, gradients, 1 - beta2)
        th._foreach_add_(options["params"], state.exp_avgs, alpha=-options["lr"] / (1 - beta1**step))
