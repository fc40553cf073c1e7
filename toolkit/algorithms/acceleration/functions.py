"""Functions that Stable-Baselines3's algorithms call, in faster forms that return the same."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch as th
from stable_baselines3.common import utils as sb3_utils
from stable_baselines3.common.policies import BaseModel
from torch import nn

from toolkit.algorithms.adam import limit_norm
from toolkit.algorithms.stock import set_training_mode

_get_kind, _PLAIN = operator.attrgetter("is_cpu", "dtype", "layout"), {(True, th.float32, th.strided)}
_clip_grad_norm, _polyak_update = nn.utils.clip_grad_norm_, sb3_utils.polyak_update


@th.no_grad()
def clip_grad_norm(
    parameters: Iterable[th.Tensor] | th.Tensor, max_norm: float, *arguments: Any, **options: Any
) -> th.Tensor:
    """Do what ``torch.nn.utils.clip_grad_norm_`` does, in one call for all gradients."""
    parameters = [parameters] if isinstance(parameters, th.Tensor) else [*parameters]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if arguments or options or not are_plain(gradients):
        return _clip_grad_norm(parameters, max_norm, *arguments, **options)
    return limit_norm(gradients, max_norm)


def polyak_update(parameters: Iterable[th.Tensor], target_parameters: Iterable[th.Tensor], tau: float) -> None:
    """Do what Stable-Baselines3's function of this name does, in one call for all parameters."""
    sources, targets = [*parameters], [*target_parameters]
    if len(sources) != len(targets) or not (are_plain(sources) and are_plain(targets)):
        _polyak_update(sources, targets, tau)
        return
    with th.no_grad():
        th._foreach_lerp_(targets, sources, tau)


def quantile_huber_loss(
    current_quantiles: th.Tensor,
    target_quantiles: th.Tensor,
    cum_prob: th.Tensor | None = None,
    sum_over_quantiles: bool = True,
) -> th.Tensor:
    """Do what sb3-contrib's function of this name does, from sorted targets instead of all pairs.

    The time grows with n log n instead of n² for n quantiles. Rounding differs from that of the other.

    :param current_quantiles: (batch, quantiles) or (batch, critics, quantiles)
    :param target_quantiles: (batch, targets), (batch, 1, targets) or (batch, critics, targets)
    """
    is_known = current_quantiles.ndim == target_quantiles.ndim and current_quantiles.ndim in (2, 3)
    is_known = is_known and are_plain([current_quantiles, target_quantiles]) and not target_quantiles.requires_grad
    if cum_prob is not None or not is_known or len(current_quantiles) != len(target_quantiles):
        original = sys.modules["sb3_contrib.common.utils"].quantile_huber_loss
        return original(current_quantiles, target_quantiles, cum_prob, sum_over_quantiles)  # type: ignore[no-any-return]
    loss: th.Tensor = _SortedQuantileLoss.apply(current_quantiles, target_quantiles)  # type: ignore[no-untyped-call]
    return loss * current_quantiles.shape[-1] if sum_over_quantiles else loss


class _SortedQuantileLoss(th.autograd.Function):
    """The mean of the quantile Huber loss over all pairs of a quantile and a target.

    With d the distance from a quantile to a target, and p the quantile's probability, a pair's loss is
    |p - (d < 0)| h(d), where h(d) is d² / 2 up to a distance of 1 and |d| - 1/2 beyond. For sorted targets, those of a
    quantile with d < -1, -1 <= d < 0, 0 <= d <= 1 and 1 < d are next to each other. So sums over them are differences
    of running sums, of the targets' number, themselves and their squares.
    """

    @staticmethod
    def forward(ctx: Any, quantiles: th.Tensor, targets: th.Tensor) -> th.Tensor:
        n_quantiles, n_targets = quantiles.shape[-1], targets.shape[-1]
        targets = targets.double().sort(dim=-1).values.expand(*quantiles.shape[:-1], n_targets)
        # sums of squares lose no digits that count if the numbers are near 0
        middle = targets.mean(dim=-1, keepdim=True)
        targets, values = (targets - middle).contiguous(), quantiles.double() - middle
        below = th.searchsorted(targets, th.cat([values - 1, values], dim=-1))
        positions = th.cat([below, th.searchsorted(targets, values + 1, right=True)], dim=-1)
        zero = targets.new_zeros(*targets.shape[:-1], 1)
        sums = th.cat([zero, targets.cumsum(dim=-1)], dim=-1)
        squares = th.cat([zero, targets.square().cumsum(dim=-1)], dim=-1)
        counts = positions.double().tensor_split(3, dim=-1)
        sums_below = sums.gather(-1, positions).tensor_split(3, dim=-1)
        squares_below = squares.gather(-1, positions).tensor_split(3, dim=-1)
        total = sums[..., -1:]

        # far and near targets below, then near and far ones above: number, sum of distances, sum of squared distances
        number = (counts[0], counts[1] - counts[0], counts[2] - counts[1], n_targets - counts[2])
        sum_ = (sums_below[0], sums_below[1] - sums_below[0], sums_below[2] - sums_below[1], total - sums_below[2])
        distance = [each - n * values for each, n in zip(sum_, number, strict=True)]
        square = [
            squares_below[side + 1]
            - squares_below[side]
            - 2 * values * sum_[side + 1]
            + number[side + 1] * values.square()
            for side in (0, 1)
        ]
        probability = (th.arange(n_quantiles, dtype=th.double) + 0.5) / n_quantiles
        weight_below = 1 - probability
        losses = weight_below * (square[0] / 2 - distance[0] - number[0] / 2)
        losses += probability * (square[1] / 2 + distance[3] - number[3] / 2)
        slopes = weight_below * (number[0] - distance[1]) - probability * (distance[2] + number[3])
        n_pairs = quantiles.numel() * n_targets
        ctx.save_for_backward((slopes / n_pairs).to(quantiles.dtype))
        return (losses.sum() / n_pairs).to(quantiles.dtype)

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient, None


def are_plain(tensors: list[th.Tensor]) -> bool:
    """Return whether tensors, one at least, are float32 in the CPU's memory."""
    return {*map(_get_kind, tensors)} == _PLAIN


_FORMS: dict[str, tuple[str, Callable[..., Any]]] = {
    "polyak_update": ("stable_baselines3.common.utils", polyak_update),
    "quantile_huber_loss": ("sb3_contrib.common.utils", quantile_huber_loss),
}
_Place = tuple[Any, str]
_lock = Lock()
_replaced: dict[_Place, tuple[int, Any]] = {}  # how many contexts need a place to be replaced, and its own function


@contextmanager
def replaced_functions(cls: type) -> Iterator[None]:
    """Replace what an algorithm calls by forms that return the same. Contexts may overlap, also in several threads."""
    places = _find_places(cls)
    with _lock:
        for (owner, name), form in places.items():
            count, function = _replaced.get((owner, name), (0, getattr(owner, name)))
            _replaced[owner, name] = count + 1, function
            setattr(owner, name, form)
    try:
        yield
    finally:
        with _lock:
            for owner, name in places:
                count, function = _replaced.pop((owner, name))
                if count > 1:
                    _replaced[owner, name] = count - 1, function
                else:
                    setattr(owner, name, function)


def _find_places(cls: type) -> dict[_Place, Callable[..., Any]]:
    """Return where an algorithm finds functions that have a faster form: a module or class and a name."""
    modules = filter(None, (sys.modules.get(base.__module__) for base in cls.__mro__))
    places: dict[_Place, Callable[..., Any]] = {
        (module, name): form
        for module in modules
        for name, (home, form) in _FORMS.items()
        if name in vars(module) and vars(module)[name] in (form, getattr(sys.modules.get(home), name, None))
    }
    return places | {
        (nn.utils, "clip_grad_norm_"): clip_grad_norm,
        (BaseModel, "set_training_mode"): set_training_mode,
    }
