"""Adam's step and gradient clipping as functions of tensors, without what ``optimizer.step`` does around them."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from torch.nn import utils
from torch.optim import optimizer as torch_optimizer
from torch.optim.adam import adam

from toolkit.algorithms.stock import get_functions


class AdamState(NamedTuple):
    """What Adam stores of each parameter, as ``torch.optim.Adam`` does."""

    exp_avgs: list[th.Tensor]
    exp_avg_sqs: list[th.Tensor]
    steps: list[th.Tensor]


OPTIMIZER_FUNCTIONS = get_functions([(th.optim.Optimizer, "zero_grad"), (utils, "clip_grad_norm_")])


def unwrap_step(cls: type[th.optim.Optimizer]) -> Any:
    """Return an optimizer's own ``step``, without what the first optimizer of a class puts around it."""
    step = cls.step
    return getattr(step, "__wrapped__", None) if getattr(step, "hooked", False) else step


_STEPS = {cls: unwrap_step(cls) for cls in (th.optim.Adam, th.optim.AdamW)}
_GLOBAL_HOOKS = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)
_get_state, _get_kind = operator.itemgetter("exp_avg", "exp_avg_sq", "step"), operator.attrgetter("device", "dtype")
_SMALLEST_NORMAL = sys.float_info.min
_MIN_EPS = 1e-10  # beside a smaller one, moments below 1.2e-38 may count
_get_flags = operator.itemgetter("amsgrad", "capturable", "differentiable")


def use_fused_form(optimizer: th.optim.Optimizer, device: th.device) -> None:
    """Let Adam run in its fused form unless its options say otherwise: one call instead of a dozen for each layer."""
    if type(optimizer) in (th.optim.Adam, th.optim.AdamW) and device.type in ("cpu", "cuda"):
        for group in optimizer.param_groups:
            if may_be_fused(group):
                group["fused"] = True


def may_be_fused(options: dict[str, Any]) -> bool:
    """Return whether the options of a group of parameters choose no other form than the fused one."""
    return options["fused"] is None and options["foreach"] is None and not options["differentiable"]


def has_plain_adam_methods(optimizer: th.optim.Optimizer) -> bool:
    """Return whether an optimizer is an Adam or AdamW with nothing in place of its own methods.

    This lasts as long as its class, the ``step`` of its class and the number of its attributes do.
    """
    own_attributes = ("step", "zero_grad", "grad_scale", "found_inf")  # which change what a step does
    cls = type(optimizer)
    is_adam = cls in _STEPS and unwrap_step(cls) is _STEPS[cls]
    return is_adam and vars(optimizer).keys().isdisjoint(own_attributes)


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Return whether :func:`step_adam` can replace the ``step`` of an Adam with plain methods now.

    It can for one group of parameters, without AMSGrad and without hooks.
    """
    groups = optimizer.param_groups
    if len(groups) != 1 or any(_get_flags(groups[0])):
        return False
    return not has_hooks(optimizer)


def has_hooks(optimizer: th.optim.Optimizer) -> bool:
    """Return whether hooks run before or after the ``step`` of an optimizer."""
    own_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own_hooks) or any(_GLOBAL_HOOKS)


def steps_in_order(optimizer: th.optim.Optimizer, parameters: list[th.nn.Parameter]) -> bool:
    """Return whether the first group of an optimizer has these parameters, in this order."""
    optimized = optimizer.param_groups[0]["params"]
    return len(optimized) == len(parameters) and all(map(operator.is_, optimized, parameters))


def get_adam_state(optimizer: th.optim.Optimizer) -> AdamState | None:
    """Return the state of a plain Adam or RAdam; ``None`` before its first step with all parameters."""
    parameters, stored = optimizer.param_groups[0]["params"], optimizer.state
    is_in_order = len(stored) == len(parameters) and all(map(operator.is_, stored, parameters))
    states = [*stored.values()] if is_in_order else [*map(stored.get, parameters)]  # which hashes each parameter
    return AdamState(*map(list, zip(*map(_get_state, states), strict=True))) if all(states) else None  # type: ignore[arg-type]


def create_adam_state(optimizer: th.optim.Optimizer) -> AdamState:
    """Create the state of a plain Adam or RAdam as its first step with all parameters does, and return it.

    ``optimizer.step`` itself would import PyTorch's compiler, which takes a second or more.
    """
    options = optimizer.param_groups[0]
    for parameter in options["params"]:
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": th.zeros((), dtype=th.float32, device=parameter.device if options.get("fused") else "cpu"),
                "exp_avg": th.zeros_like(parameter, memory_format=th.preserve_format),
                "exp_avg_sq": th.zeros_like(parameter, memory_format=th.preserve_format),
            }
    return AdamState(
        *map(list, zip(*(_get_state(optimizer.state[parameter]) for parameter in options["params"]), strict=True))
    )


@th.no_grad()
def step_adam(
    options: dict[str, Any], parameters: Any, gradients: list[th.Tensor], state: AdamState, **overrides: Any
) -> None:
    """Make one step of Adam in place.

    :param options: the optimizer's group of parameters
    :param overrides: options that replace those of the group
    """
    if overrides:
        options = options | overrides
    beta1, beta2 = options["betas"]
    if options["fused"] and len({*map(_get_kind, parameters)}) == 1:
        # `adam` calls these in the end, and takes five times as long
        th._foreach_add_(state.steps, 1)
        fused_step = th._fused_adamw_ if options["decoupled_weight_decay"] else th._fused_adam_
        with flush_denormals(options):
            fused_step(
                parameters,
                gradients,
                *state[:2],
                [],
                state.steps,
                lr=options["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=options["weight_decay"],
                eps=options["eps"],
                amsgrad=False,
                maximize=options["maximize"],
            )
        return
    names = ("foreach", "fused", "lr", "weight_decay", "eps", "maximize", "decoupled_weight_decay")
    values = {name: options[name] for name in names}
    adam(parameters, gradients, *state[:2], [], state.steps, amsgrad=False, beta1=beta1, beta2=beta2, **values)


@contextmanager
def flush_denormals(options: dict[str, Any]) -> Iterator[None]:
    """Let the CPU take denormal numbers, those below 1.2e-38, for 0 in Adam's step, because it is slow with them.

    Adam's moments for a unit that is never active fall to such numbers. They are too small to change a weight.

    :param options: the optimizer's group of parameters
    """
    if options["eps"] < _MIN_EPS:
        yield
        return
    is_flushing = _SMALLEST_NORMAL / 2 == 0  # someone has chosen so
    th.set_flush_denormal(True)
    try:
        yield
    finally:
        th.set_flush_denormal(is_flushing)


def clip_gradients(gradients: list[th.Tensor], max_norm: float) -> None:
    """Do what :func:`limit_norm` does unless ``max_norm`` is infinite."""
    if max_norm != math.inf:
        limit_norm(gradients, max_norm)


def limit_norm(gradients: list[th.Tensor], max_norm: float) -> th.Tensor:
    """Scale gradients in place to a total norm of at most ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does.

    :return: the total norm before
    """
    is_compiling = th.compiler.is_compiling()  # it makes one loop of the list; uncompiled, one call is faster
    norms = [th.linalg.vector_norm(each) for each in gradients] if is_compiling else [*th._foreach_norm(gradients)]
    norm: th.Tensor = th.linalg.vector_norm(th.stack(norms))
    can_compare = not is_compiling and norm.device.type == "cpu"
    if not (can_compare and norm.item() < 0.99 * max_norm):  # else the scale is exactly 1
        th._foreach_mul_(gradients, th.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
