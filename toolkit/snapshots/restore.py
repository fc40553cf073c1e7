"""Restore what :mod:`toolkit.snapshots.capture` captured of an object into another one like it."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any

import numpy as np
import torch

from toolkit.snapshots.capture import NOTHING, OBJECT, STATE_DICT, UNCHANGED, capture_value
from toolkit.snapshots.object_kinds import (
    STATIC_TYPES,
    get_reference_attributes,
    has_state_dict,
    is_frozen,
    is_object,
    is_restored_in_place,
)
from toolkit.snapshots.plain_data import NotPlainError, decode, decode_container, is_container, is_equal
from toolkit.snapshots.weights import load_state_dict

# what restoring raises if a state is not that of such an object
RESTORE_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError)

# classes that earlier versions stored under other names
FORMER_CLASS_NAMES = {"Bookkeeper": "MonitorCsvWriter"}


def is_class_name(owner: Any, class_name: Any) -> bool:
    """Return whether a snapshot means an object's class by a name: the class has it, or had it in earlier versions."""
    return type(owner).__name__ in (class_name, FORMER_CLASS_NAMES.get(class_name))


def check_class(owner: Any, class_name: Any) -> None:
    """Check that an object is of the class that a snapshot names.

    :raises ValueError: if it is of another class
    """
    if not is_class_name(owner, class_name):
        raise ValueError(f"the snapshot has a {class_name} where the run has a {type(owner).__name__}")


def restore(owner: Any, saved_state: dict[str, Any]) -> None:
    """Restore what :func:`toolkit.snapshots.capture.capture` returned of an object like this one.

    :raises ValueError: if it does not fit; also another of :data:`RESTORE_ERRORS`
    """
    if saved_state["$"] == NOTHING:
        return
    if has_state_dict(owner) != (saved_state["$"] == STATE_DICT):
        raise ValueError(f"it has no state of a {type(owner).__name__}")
    if not has_state_dict(owner):
        restore_attributes(owner, saved_state["state"], get_reference_attributes(owner))
    elif isinstance(owner, torch.nn.Module | torch.optim.Optimizer):
        load_state_dict(restore_value(saved_state["state"]), owner)
    else:
        owner.load_state_dict(restore_value(saved_state["state"]))


def restore_attributes(owner: Any, saved_attributes: dict[str, Any], skipped: Collection[str] = ()) -> None:
    """Restore attributes; those that are equal stay untouched, as others may refer to the same object.

    :raises ValueError: if they do not fit, or training cannot have set them
    """
    for name, data in saved_attributes.items():
        if name in skipped or not _is_settable(owner, name):
            raise ValueError(f"{type(owner).__name__}.{name} is not an attribute that training sets")
        current = vars(owner).get(name)
        if not _has_value(current, data):
            value = restore_value(data, current)
            if value is not current:
                object.__setattr__(owner, name, value)  # a frozen dataclass refuses setattr


def restore_value(data: Any, current: Any = None) -> Any:
    """Return the value that plain data describes; parts that cannot be recreated come from the ``current`` value.

    :raises ValueError: if the two do not fit
    """
    if isinstance(data, dict) and data.get("$") in (UNCHANGED, OBJECT):
        return _restore_part(data, current)
    if is_restored_in_place(current):
        raise ValueError(f"the snapshot has plain data where the run has a {type(current).__name__}")
    if is_container(data):
        return decode_container(data, current, restore_value)
    if isinstance(data, dict):
        return decode(data, current)
    return data.copy() if isinstance(data, np.ndarray) else data


def _restore_part(data: dict[str, Any], current: Any) -> Any:
    """Return the current part with the state put into it, or what its class makes of the state."""
    if data["$"] == UNCHANGED and current is not None:
        return current
    check_class(current, data.get("type"))
    for types, restore_part in _IN_PLACE.items():
        if isinstance(current, types):
            return restore_part(data["state"], current)
    if isinstance(current, STATIC_TYPES) or not is_object(current):
        raise ValueError(f"a {type(current).__name__} has no state to restore")
    if is_frozen(current):
        current = copy.copy(current)  # others may refer to it and rely on its values
    restore(current, data["state"])
    return current


def _restore_tensor(data: dict[str, Any], current: torch.Tensor) -> torch.Tensor:
    tensor: torch.Tensor = decode(data, current)
    if tensor.shape != current.shape:
        raise ValueError("a tensor has another shape")
    current.data.copy_(tensor)
    return current


def _restore_named_tuple(data: Any, current: Any) -> Any:
    return current._make(decode_container(data, current, restore_value))


def _restore_container(data: Any, current: Any) -> Any:
    """Refill a container in place, so that it keeps its type and attributes."""
    if isinstance(current, list):
        current[:] = restore_value(data, [*current])
        return current
    items = decode_container(data, dict(current) if isinstance(current, dict) else [*current], restore_value)
    current.clear()
    current.extend(items) if isinstance(current, deque) else current.update(items)
    return current


def _has_value(current: Any, data: Any) -> bool:
    try:
        return is_equal(capture_value(current), data)
    except NotPlainError:
        return False


def _is_settable(owner: Any, name: str) -> bool:
    """Return whether an attribute is data: the object has it, or it is new and no method or property."""
    in_class = inspect.getattr_static(type(owner), name, None)
    return name in vars(owner) or not (callable(in_class) or hasattr(type(in_class), "__get__"))


_IN_PLACE: dict[tuple[type[Any], ...], Callable[[Any, Any], Any]] = {
    (Enum,): lambda data, current: type(current)[data],
    (torch.Tensor,): _restore_tensor,
    (np.random.Generator,): decode,
    (tuple,): _restore_named_tuple,
    (list, deque, dict, set): _restore_container,
}
