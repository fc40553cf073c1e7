"""What an environment inside all wrappers carries from one episode to the next, as far as it can be saved."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np

from toolkit.snapshots import plain_data, restore
from toolkit.snapshots.object_kinds import has_state_dict

_MAX_NUMBERS = 1_000  # of an array
_MAX_ITEMS = 100  # of containers, in all
SKIPPED = {"render_mode", "_np_random", "_np_random_seed"}  # every reset seeds the generator again
_OWN = "state_dict"  # key of the state that an environment saves itself
_IMMUTABLE = frozenset(plain_data.PLAIN_TYPES)

Attributes = dict[str, Any]


class CarriedState:
    """What an environment carries from one episode to the next: its ``state_dict``, or else its plain attributes.

    Plain attributes are numbers, text, generators, small arrays and small containers of these. Some belong to one
    process, such as the number of a connection. So only those count that change after the first reset: a level, a
    counter.

    :param env: the environment inside all wrappers
    :ivar unsaved: names what cannot be saved
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = env
        self._has_own = has_state_dict(env)
        self._first: Attributes | None = None
        self.unsaved: list[str] = []

    def read(self) -> Attributes:
        """Return the present state as plain data; no property is read, and nothing in it changes later."""
        if not self._has_own:
            return read_attributes(self._env)
        try:
            return {_OWN: plain_data.copy_data(plain_data.encode_value(self._env.state_dict()))}  # type: ignore[attr-defined]
        except plain_data.NotPlainError:
            self.unsaved = ["the value of its state_dict"]
            return {}

    def note_first_reset(self) -> None:
        """Compare later states with the present one; called after the first reset, and without effect after others."""
        if self._first is None:
            self._first = self.read()

    def find_changes(self, state: Attributes) -> Attributes:
        """Return the part of a state that has changed since the first reset."""
        return find_changes(self._first or {}, state)

    def restore(self, changes: Attributes) -> None:
        """Restore what :meth:`find_changes` returned for another environment of this kind after its first reset.

        :raises ValueError: if an own state does not fit; also another of
            :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
        """
        if not self._has_own:
            set_attributes(self._env, {**(self._first or {}), **changes})
        elif _OWN in changes:
            self._env.load_state_dict(restore.restore_value(changes[_OWN]))  # type: ignore[attr-defined]


def read_attributes(owner: Any, skipped: Collection[str] = SKIPPED) -> Attributes:
    """Return the plain attributes of an object, as plain data that nothing changes later; no property is read.

    :param skipped: names of attributes to leave out
    """
    attributes = {}
    for name, value in getattr(owner, "__dict__", {}).items():
        if type(value) in _IMMUTABLE:
            if name not in skipped:
                attributes[name] = value
        elif type(value) in _READERS and name not in skipped:
            with suppress(plain_data.NotPlainError):
                attributes[name] = _READERS[type(value)](value)
    return attributes


def read_state(layer: Any) -> Attributes:
    """Return the plain attributes of a layer, and what its ``state_dict`` returns if that can be written."""
    attributes = read_attributes(layer)
    if has_state_dict(layer):
        with suppress(plain_data.NotPlainError):
            attributes[_OWN] = plain_data.copy_data(plain_data.encode_value(layer.state_dict()))
    return attributes


def set_state(layer: Any, state: Attributes) -> None:
    """Set what :func:`read_state` returned of a layer like this, or a part of it.

    :raises ValueError: if a ``state_dict`` does not fit; also another of
        :data:`toolkit.snapshots.restore.RESTORE_ERRORS`
    """
    set_attributes(layer, {name: data for name, data in state.items() if name != _OWN})
    if _OWN in state and has_state_dict(layer):
        layer.load_state_dict(restore.restore_value(state[_OWN]))


def find_changes(before: Attributes, after: Attributes) -> Attributes:
    """Return the attributes that are new or differ."""
    return {
        name: data for name, data in after.items() if not (name in before and plain_data.is_equal(before[name], data))
    }


def set_attributes(owner: Any, attributes: Attributes) -> None:
    """Set plain attributes; those that do not fit the object, which holds something else there, stay unchanged.

    Arrays and containers are changed in place, because other objects may refer to them.
    """
    for name, data in attributes.items():
        current = vars(owner).get(name)
        if current is not None and type(current) not in _IMMUTABLE and _set_in_place(current, data):
            continue
        with suppress(*restore.RESTORE_ERRORS):
            restore.restore_attributes(owner, {name: data})


def _set_in_place(current: Any, data: Any) -> bool:
    """Give a mutable value the content that data describes; return whether it has it now."""
    if isinstance(current, np.ndarray):
        fits = isinstance(data, np.ndarray) and (data.dtype, data.shape) == (current.dtype, current.shape)
        if not fits or not current.flags.writeable:
            return False
        current[...] = data
        return True
    if type(current) not in (list, dict, set, deque) or not plain_data.is_container(data):
        return False
    value = restore.restore_value(data, current)
    if type(value) is not type(current):
        return False
    current.clear()
    current.extend(value) if isinstance(current, list | deque) else current.update(value)
    return True


def _read_array(array: np.ndarray[Any, Any]) -> Any:
    if array.size > _MAX_NUMBERS:
        raise plain_data.NotPlainError
    return plain_data.encode(array.copy())


def _read_container(container: Any) -> Any:
    if _count_items(container, _MAX_ITEMS) > _MAX_ITEMS:
        raise plain_data.NotPlainError
    return plain_data.copy_data(plain_data.encode_value(container))


def _count_items(container: Any, limit: int) -> int:
    """Count the items of a container and of those in it; stop beyond the limit."""
    count = len(container)
    for item in container.values() if isinstance(container, dict) else container:
        if count > limit:
            break
        if type(item) in plain_data.CONTAINER_TYPES:
            count += _count_items(item, limit - count)
        elif isinstance(item, np.ndarray):
            count += item.size
    return count


_READERS: dict[type[Any], Callable[[Any], Any]] = {
    np.ndarray: _read_array,
    **dict.fromkeys((np.random.Generator, np.random.RandomState, random.Random), plain_data.encode_value),
    **dict.fromkeys(plain_data.CONTAINER_TYPES, _read_container),
    **dict.fromkeys((np.float32, np.float64, np.int32, np.int64, np.bool_, np.uint8), plain_data.encode),
}
