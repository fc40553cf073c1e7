"""Put captured attributes into a copy of their owner, which was built anew and may not have been reset yet."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from toolkit.snapshots.capture import ATTRIBUTES, OBJECT, STATE_DICT
from toolkit.snapshots.object_kinds import get_reference_attributes, has_state_dict, is_frozen, is_object
from toolkit.snapshots.restore import RESTORE_ERRORS, check_class, restore, restore_attributes

_log = logging.getLogger("toolkit")

_GENERATORS = ("generator", "random")  # kinds of plain data
_OWN = ("render_mode", "num_envs", "_action_space", "_observation_space")  # attributes that belong to the copy


def transfer(owner: Any, state: dict[str, Any], n_envs: tuple[int, int] = (0, 0)) -> list[str]:
    """Put what :func:`toolkit.snapshots.capture.capture` returned of an object into a copy of it.

    Random generators stay the copy's own, because many copies of one generator would draw the same numbers. Arrays and
    lists with an entry for each environment stay out if the copy has another number of environments.

    :param n_envs: number of environments of the object, and of the copy
    :return: dotted names of attributes that do not fit the copy as it is now; a reset may make their objects
    :raises ValueError: if a ``state_dict`` does not fit; also another of
        :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    if state["$"] != ATTRIBUTES or has_state_dict(owner):
        restore(owner, state)
        return []
    return transfer_attributes(owner, state["state"], n_envs)


def transfer_attributes(owner: Any, attributes: dict[str, Any], n_envs: tuple[int, int] = (0, 0)) -> list[str]:
    """Put captured attributes into a copy of their owner, as :func:`transfer` does."""
    missing: list[str] = []
    for name, data in attributes.items():
        current = vars(owner).get(name)
        if name in _OWN or _has_entry_for_each_env(data, current, n_envs):
            continue
        try:
            if _is_same_object(current, data):
                check_class(current, data["type"])
                missing += [f"{name}.{inner}" for inner in transfer(current, data["state"], n_envs)]
            elif not contains(data, is_generator):
                restore_attributes(owner, {name: data}, get_reference_attributes(owner))
        except RESTORE_ERRORS:
            missing.append(name)
    return missing


@functools.cache  # each copy has the same attributes
def warn_of_missing(name: str) -> None:
    """Warn, once in a process, of an attribute that :func:`transfer` has named."""
    _log.warning("%s does not fit what training left: evaluation starts with the initial value", name)


def contains(data: Any, is_wanted: Callable[[dict[str, Any]], bool]) -> bool:
    """Return whether plain data has a mapping of some kind in it, or is one."""
    if isinstance(data, dict):
        return is_wanted(data) or any(contains(item, is_wanted) for item in data.values())
    return isinstance(data, list) and any(contains(item, is_wanted) for item in data)


def is_generator(data: dict[str, Any]) -> bool:
    """Return whether plain data is the state of a random generator."""
    return data.get("$") in _GENERATORS


def _is_same_object(current: Any, data: Any) -> bool:
    """Return whether both are objects whose attributes are looked at one by one."""
    return (
        isinstance(data, dict)
        and data.get("$") == OBJECT
        and isinstance(data["state"], dict)
        and data["state"].get("$") in (ATTRIBUTES, STATE_DICT)
        and is_object(current)
        and not is_frozen(current)
    )


def _has_entry_for_each_env(data: Any, current: Any, n_envs: tuple[int, int]) -> bool:
    n_saved, n_current = n_envs
    return n_saved != n_current and _count_entries(data) == n_saved and _length(current) == n_current


def _count_entries(data: Any) -> int | None:
    """Return the length of the array, list, tuple or deque that plain data describes; None if it is something else."""
    if isinstance(data, dict) and data.get("$") in ("tensor", "numbers", "tuple", "deque", OBJECT):
        return _count_entries(data.get("value", data.get("items", data.get("state"))))
    return _length(data)


def _length(value: Any) -> int | None:
    if isinstance(value, np.ndarray | torch.Tensor):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple | deque) else None
