"""What a policy and its networks hold beside their weights, such as a temperature that a callback lowers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from torch import nn

from toolkit.snapshots.capture import Structure, capture_attributes
from toolkit.snapshots.plain_data import NotPlainError, copy_data, encode_value, is_equal
from toolkit.snapshots.restore import restore_attributes, restore_value

_OF_TORCH = frozenset(vars(nn.Module()))
_ARGUMENTS = ("_args", "_kwargs")  # how SB3's policies name what they pass to constructors


class _OwnerState(NamedTuple):
    """The state of the policy, of a network in it, or of its action distribution."""

    data: dict[str, Any]
    unsaved: list[str]
    structure: Structure


_INITIAL: WeakKeyDictionary[BaseAlgorithm, dict[str, _OwnerState]] = WeakKeyDictionary()


def remember_initial_policy(model: BaseAlgorithm) -> None:
    """Remember the policy's attributes. Call it where a model is built."""
    states = _capture_owners(model, {})
    _INITIAL[model] = {path: state._replace(data=copy_data(state.data)) for path, state in states.items()}


def capture_policy(model: BaseAlgorithm) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes and non-persistent buffers that differ from those of a model just built, as plain data.

    :return: by the path of a network in the policy; and the names of attributes that cannot be saved
    """
    initial = _INITIAL.get(model, {})
    changed, unsaved = {}, []
    for path, state in _capture_owners(model, initial).items():
        before = initial[path].data if path in initial else {}
        data = {name: value for name, value in state.data.items() if not is_equal(value, before.get(name, _OF_TORCH))}
        if data:
            changed[path] = data
        unsaved += [
            f"policy {type(model.policy).__name__}: {path}.{name}".replace(": .", ": ") for name in state.unsaved
        ]
    return changed, unsaved


def restore_policy(model: BaseAlgorithm, states: dict[str, Any]) -> None:
    """Restore what :func:`capture_policy` returned of another model of the same config.

    :raises ValueError: if it does not fit; also another of :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    owners = dict(_iterate_owners(model))
    for path, state in states.items():
        owner = owners[path]
        buffers = owner._buffers if isinstance(owner, nn.Module) else {}
        for name in state.keys() & _get_buffer_names(owner):
            _restore_buffer(buffers, name, state[name])
        restore_attributes(owner, {name: data for name, data in state.items() if name not in buffers}, _OF_TORCH)


def _restore_buffer(buffers: dict[str, torch.Tensor | None], name: str, data: Any) -> None:
    value, current = restore_value(data), buffers[name]
    if current is None or value is None:
        buffers[name] = value
    elif not isinstance(value, torch.Tensor) or value.shape != current.shape:
        raise ValueError(f"the buffer {name} has another shape")
    else:
        current.copy_(value)


def _iterate_owners(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    """Yield the policy, its networks and their action distributions, with their paths."""
    for path, module in model.policy.named_modules():
        yield path, module
        for name, value in vars(module).items():
            if isinstance(value, Distribution):
                yield f"{path}.{name}".lstrip("."), value


def _capture_owners(model: BaseAlgorithm, initial: dict[str, _OwnerState]) -> dict[str, _OwnerState]:
    modules = [*model.policy.modules()]
    saved_elsewhere = [model, *modules, *model.policy.parameters(), *model.policy.buffers()]
    return {
        path: _capture_distribution(owner)
        if isinstance(owner, Distribution)
        else _capture_module(owner, saved_elsewhere, initial.get(path))
        for path, owner in _iterate_owners(model)
    }


def _capture_distribution(distribution: Distribution) -> _OwnerState:
    """Capture its numbers; everything else is made anew for each action."""
    numbers = {name: value for name, value in vars(distribution).items() if type(value) in (bool, int, float)}
    return _OwnerState(numbers, [], Structure({}, {}))


def _capture_module(module: nn.Module, saved_elsewhere: list[Any], initial: _OwnerState | None) -> _OwnerState:
    skipped = _OF_TORCH | {name for name, value in vars(module).items() if _is_saved_or_fixed(module, name, value)}
    captured = capture_attributes(module, skipped, saved_elsewhere, initial and initial.structure)
    data, unsaved = dict(captured.state), [*captured.unsaved]
    for name in _get_buffer_names(module):
        try:
            data[name] = encode_value(module._buffers[name])
        except NotPlainError:
            unsaved.append(name)
    return _OwnerState(data, unsaved, captured.structure)


def _is_saved_or_fixed(module: nn.Module, name: str, value: Any) -> bool:
    """Return whether an attribute is saved in another way, or follows from the constructor's arguments."""
    is_internal = name.startswith("_") and type(module).__module__.startswith("torch.")
    is_saved = isinstance(value, nn.Module | torch.optim.Optimizer | Distribution)
    return is_saved or is_internal or name.endswith(_ARGUMENTS)


def _get_buffer_names(owner: Any) -> set[str]:
    return owner._non_persistent_buffers_set if isinstance(owner, nn.Module) else set()
