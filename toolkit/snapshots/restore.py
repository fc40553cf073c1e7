"""What was captured of an object, back into another like it."""

from __future__ import annotations

import copy
import inspect
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any

import numpy as np
import torch

from toolkit.snapshots.capture import encode
from toolkit.snapshots.object_kinds import STATIC, has_state_dict, is_frozen, is_live, is_object, references
from toolkit.snapshots.plain_data import NotPlainError, made, same
from toolkit.snapshots.weights import put_state

# what comes of data that is put into an object which it is not of
MISFITS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


def restore(owner: Any, kept: dict[str, Any]) -> None:
    """Put back what :func:`capture` returned of an object like this one.

    :raises ValueError: if it does not fit; also another of :data:`MISFITS`
    """
    if kept["$"] == "nothing":
        return
    if has_state_dict(owner) != (kept["$"] == "own"):
        raise ValueError(f"it has no state of a {type(owner).__name__}")
    if not has_state_dict(owner):
        restore_attributes(owner, kept["state"], references(owner))
    elif isinstance(owner, torch.nn.Module | torch.optim.Optimizer):
        put_state(decode(kept["state"]), owner)
    else:
        owner.load_state_dict(decode(kept["state"]))


def restore_attributes(owner: Any, kept: dict[str, Any], skipped: Collection[str] = ()) -> None:
    """Put back attributes; those that are the same are not touched, as others may hold the same object.

    :raises ValueError: if they do not fit, or are no attributes that training could have set
    """
    for name, wanted in kept.items():
        if name in skipped or not _is_data(owner, name):
            raise ValueError(f"{type(owner).__name__}.{name} is nothing that training keeps")
        present = vars(owner).get(name)
        if not _is_same(present, wanted):
            value = decode(wanted, present)
            if value is not present:
                object.__setattr__(owner, name, value)  # past what a frozen dataclass has


def decode(kept: Any, present: Any = None) -> Any:
    """Turn plain data back into a value; what is live is put into the one that is ``present``.

    :raises ValueError: if the two do not fit
    """
    if isinstance(kept, dict) and kept.get("$") in ("known", "live"):
        return _into(kept, present)
    if is_live(present):
        raise ValueError(f"where it has plain data there is a {type(present).__name__}")
    if isinstance(kept, list):
        there = present if isinstance(present, list) and len(present) == len(kept) else [None] * len(kept)
        return [decode(*pair) for pair in zip(kept, there, strict=True)]
    if not isinstance(kept, dict):
        return kept.copy() if isinstance(kept, np.ndarray) else kept
    if "$" not in kept:
        known = present if isinstance(present, dict) else {}
        return {key: decode(one, known.get(key)) for key, one in kept.items()}
    return _filled(kept, present) if kept["$"] in ("mapping", *_FILLED) else made(kept, present)


def _into(kept: dict[str, Any], present: Any) -> Any:
    """Return what is present with the state put into it, or what its own class makes of the state."""
    if kept["$"] == "known" and present is not None:
        return present
    if type(present).__name__ != kept.get("type"):
        raise ValueError(f"where it has a {kept.get('type')} there is a {type(present).__name__}")
    for kinds, put in _PUT.items():
        if isinstance(present, kinds):
            return put(kept["state"], present)
    if isinstance(present, STATIC) or not is_object(present):
        raise ValueError(f"a {type(present).__name__} has no state to put back")
    if is_frozen(present):
        present = copy.copy(present)  # others may hold it, who rely on what it says
    restore(present, kept["state"])
    return present


def _overwritten(kept: dict[str, Any], present: torch.Tensor) -> torch.Tensor:
    tensor: torch.Tensor = made(kept, present)
    if tensor.shape != present.shape:
        raise ValueError("a tensor has another shape")
    present.data.copy_(tensor)
    return present


def _refilled(kept: Any, present: Any) -> Any:
    """Put what a container held into the one that is there, which keeps what else makes its type."""
    if isinstance(present, list):
        present[:] = decode(kept, [*present])
        return present
    values = _filled(kept, dict(present) if isinstance(present, dict) else [*present])
    present.clear()
    present.extend(values) if isinstance(present, deque) else present.update(values)
    return present


def _filled(kept: dict[str, Any], present: Any) -> Any:
    """Make a container of what another one held."""
    if kept["$"] == "mapping":
        known = present if isinstance(present, dict) else {}
        pairs = [(decode(key), one) for key, one in kept["pairs"]]
        return _FILLED[kept["of"]]({key: decode(one, known.get(key)) for key, one in pairs})
    items = _items(kept, present)
    return deque(items, kept["maxlen"]) if kept["$"] == "deque" else _FILLED[kept["$"]](items)


def _items(kept: dict[str, Any], present: Any) -> Any:
    return decode(kept["items"], [*present] if isinstance(present, list | tuple | deque) else None)


def _is_same(present: Any, wanted: Any) -> bool:
    try:
        return same(encode(present), wanted)
    except NotPlainError:
        return False


def _is_data(owner: Any, name: str) -> bool:
    """Say whether an attribute can be set: it is there, or it is new and nothing else in the class."""
    of_class = inspect.getattr_static(type(owner), name, None)
    return name in vars(owner) or not (callable(of_class) or hasattr(type(of_class), "__get__"))


_FILLED: dict[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (tuple, set, frozenset, deque, dict, OrderedDict, Counter)
}
_PUT: dict[tuple[type[Any], ...], Callable[[Any, Any], Any]] = {
    (Enum,): lambda kept, present: type(present)[kept],
    (torch.Tensor,): _overwritten,
    (np.random.Generator,): made,
    (tuple,): lambda kept, present: present._make(_items(kept, present)),
    (list, deque, dict, set): _refilled,
}
