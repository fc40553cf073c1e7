"""Capture the state of an object as plain data, which :mod:`toolkit.snapshots.restore` puts into another like it.

No object is ever constructed from a name in the data. Numbers, text, arrays, tensors, generators and Python's own
containers are recreated. Everything else is restored in place: an object, a network, a named tuple or a subclass of a
container goes into the one at the same path. That one must exist when training starts, and be of the same type.

So three kinds of attributes stay unsaved, and are named. The first hold an object that training makes. The second
refer to another object or function than at the start. The third are deleted in training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch

from toolkit.snapshots.object_kinds import (
    STATIC_TYPES,
    get_reference_attributes,
    get_transient_attributes,
    has_identity,
    has_state_dict,
    is_frozen,
    is_object,
    is_restored_in_place,
    is_stateless_env,
)
from toolkit.snapshots.plain_data import (
    CONTAINER_TYPES,
    MAX_DEPTH,
    PLAIN_TYPES,
    NotPlainError,
    check_int,
    encode,
    encode_container,
    encode_value,
)

# the kinds of mappings in a snapshot; version 0.1.0 wrote the same
OBJECT, ATTRIBUTES, STATE_DICT, NOTHING, UNCHANGED = "live", "attributes", "own", "nothing", "known"


class Part(NamedTuple):
    """What must not change between start and snapshot of a part that is restored in place.

    :ivar type_name: name of its class
    :ivar static: the part itself if it is a function, a class or the like
    :ivar first_path: where the walk met the same object before, if it did
    """

    type_name: str
    static: Any
    first_path: tuple[str, tuple[Any, ...]] | None


class Structure(NamedTuple):
    """The parts of an object that are restored in place, and the names of its attributes.

    :ivar parts: by attribute (dotted, also of objects in attributes), its parts by their keys in it; None if unsaved
    :ivar attributes: by the dotted path of an object, the names of its attributes
    """

    parts: dict[str, dict[tuple[Any, ...], Part] | None]
    attributes: dict[str, list[str]]


class CapturedState(NamedTuple):
    """The state of an object.

    :ivar state: plain data
    :ivar unsaved: dotted names of attributes that the state lacks and that cannot be restored
    :ivar structure: what the next capture compares with the start
    """

    state: dict[str, Any]
    unsaved: list[str]
    structure: Structure


def capture(owner: Any, saved_elsewhere: Iterable[Any] = (), start: Structure | None = None) -> CapturedState:
    """Capture the state of an object: its ``state_dict``, or else its attributes.

    :param saved_elsewhere: objects whose state others save, wherever the owner refers to them
    :param start: the structure when training started; None if it starts now
    """
    walk = _Walk(saved_elsewhere, start)
    try:
        state = walk.capture_object(owner, _ROOT)
    except NotPlainError:
        return CapturedState({"$": NOTHING}, ["the value of its state_dict"], Structure({}, {}))
    return CapturedState(state, walk.unsaved, walk.structure)


def capture_attributes(
    owner: Any, skipped: Collection[str], saved_elsewhere: Iterable[Any] = (), start: Structure | None = None
) -> CapturedState:
    """Capture the attributes of an object except those ``skipped``, as :func:`capture` does."""
    walk = _Walk(saved_elsewhere, start)
    return CapturedState(walk.capture_attributes(owner, skipped, _ROOT), walk.unsaved, walk.structure)


def capture_value(value: Any) -> Any:
    """Capture a value as plain data that can be restored into a value like it; arrays are not copied.

    :raises NotPlainError: if a part of it cannot be restored
    """
    walk = _Walk((), None)
    data = walk.encode(value, AttributePath(""))
    if walk.unsaved:
        raise NotPlainError
    return data


class AttributePath(NamedTuple):
    """Where a value is in an object.

    :ivar attribute: dotted name of the nearest attribute
    :ivar keys: keys and indices that lead from the attribute to the value
    :ivar depth: how many steps lead from the first attribute to the value
    :ivar owners: ids of the objects around, which their parts may refer to
    """

    attribute: str
    keys: tuple[Any, ...] = ()
    depth: int = 0
    owners: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ".".join(map(str, (self.attribute, *self.keys)))

    def item(self, key: Any) -> AttributePath:
        """Return the path of an item of the container at this path."""
        return AttributePath(self.attribute, (*self.keys, key), self.depth + 1, self.owners)

    def attribute_of(self, owner: Any, name: str) -> AttributePath:
        """Return the path of an attribute of the object at this path."""
        return AttributePath(f"{self}.{name}".lstrip("."), (), self.depth + 1, (*self.owners, id(owner)))


_ROOT = AttributePath("", depth=-1)


class _Walk:
    """One walk over an object and the objects in it, which encodes them and notes their structure."""

    def __init__(self, saved_elsewhere: Iterable[Any], start: Structure | None) -> None:
        self._saved_elsewhere = frozenset(map(id, saved_elsewhere))
        self._start = start
        self.structure = Structure({}, {})
        self._first_paths: dict[int, tuple[str, tuple[Any, ...]]] = {}  # by the id of an object

    @property
    def unsaved(self) -> list[str]:
        return [name for name, parts in self.structure.parts.items() if parts is None]

    def capture_object(self, owner: Any, path: AttributePath) -> dict[str, Any]:
        if has_state_dict(owner):
            return {"$": STATE_DICT, "state": encode_value(owner.state_dict())}
        skipped = get_reference_attributes(owner) | get_transient_attributes(owner)
        return {"$": ATTRIBUTES, "state": self.capture_attributes(owner, skipped, path)}

    def capture_attributes(self, owner: Any, skipped: Collection[str], path: AttributePath) -> dict[str, Any]:
        state = {}
        for name, value in [*vars(owner).items()]:  # a property or a state_dict may set more on the way
            if name not in skipped:
                data = self._encode_attribute(value, path.attribute_of(owner, name))
                if not (isinstance(data, dict) and data.get("$") == UNCHANGED):
                    state[name] = data
        names = [name for name in vars(owner) if name not in skipped]
        for name in self._start.attributes.get(str(path), ()) if self._start else ():
            if name not in names:  # training deleted it
                self.structure.parts[path.attribute_of(owner, name).attribute] = None
        self.structure.attributes[str(path)] = names
        return state

    def _encode_attribute(self, value: Any, path: AttributePath) -> Any:
        """Encode an attribute, which is unsaved if it cannot be written or its structure differs from the start."""
        n_objects, n_attributes = len(self._first_paths), len(self.structure.parts)
        try:
            data = self.encode(value, path)
            start_parts = self._start.parts if self._start else self.structure.parts
            if self.structure.parts.get(path.attribute, {}) != start_parts.get(path.attribute, {}):
                raise NotPlainError
        except NotPlainError:
            _truncate(self._first_paths, n_objects)
            _truncate(self.structure.parts, n_attributes)
            self.structure.parts[path.attribute] = None
            return {"$": UNCHANGED}
        return data

    def encode(self, value: Any, path: AttributePath) -> Any:
        if type(value) in PLAIN_TYPES:
            return check_int(value)
        if path.depth > MAX_DEPTH:
            raise NotPlainError
        if self._is_saved_elsewhere(value, path) or is_restored_in_place(value):
            return self._encode_part(value, path)
        if type(value) not in CONTAINER_TYPES:
            return encode(value)
        # each attribute would get its own container; a value without an attribute is only read
        if path.attribute and not isinstance(value, tuple | frozenset) and self._first_path(value, path):
            raise NotPlainError
        return self._encode_container(value, path)

    def _encode_part(self, value: Any, path: AttributePath) -> dict[str, Any]:
        """Encode what is restored in place, and note it as a part."""
        is_saved = self._is_saved_elsewhere(value, path)
        is_static = isinstance(value, STATIC_TYPES) and not is_saved
        first_path = self._first_path(value, path) if has_identity(value) and not is_saved else None
        parts = self.structure.parts.get(path.attribute) or {}
        parts[path.keys] = Part(type(value).__name__, value if is_static else None, first_path)
        self.structure.parts[path.attribute] = parts
        if is_static or is_saved or first_path:
            return {"$": UNCHANGED}
        n_objects = len(self._first_paths)
        state = self._encode_state(value, path)
        if is_frozen(value):  # a copy of it is restored
            _truncate(self._first_paths, n_objects)
        return {"$": OBJECT, "type": type(value).__name__, "state": state}

    def _encode_state(self, value: Any, path: AttributePath) -> Any:
        if isinstance(value, Enum):
            if value.name not in type(value).__members__:  # a combination of flags
                raise NotPlainError
            return value.name
        if isinstance(value, torch.Tensor | np.random.Generator):
            return encode(value)
        if isinstance(value, CONTAINER_TYPES) and (hasattr(value, "_fields") or not isinstance(value, tuple)):
            if getattr(value, "__dict__", None):
                raise NotPlainError
            return self._encode_container(value, path)
        if not is_object(value):
            raise NotPlainError
        return self.capture_object(value, path)

    def _encode_container(self, container: Any, path: AttributePath) -> Any:
        return encode_container(container, lambda item, key: self.encode(item, path.item(key)))

    def _is_saved_elsewhere(self, value: Any, path: AttributePath) -> bool:
        return id(value) in self._saved_elsewhere or id(value) in path.owners or is_stateless_env(value)

    def _first_path(self, value: Any, path: AttributePath) -> tuple[str, tuple[Any, ...]] | None:
        """Return where the walk met the same object before, if it did."""
        value_path = (path.attribute, path.keys)
        first_path = self._first_paths.setdefault(id(value), value_path)
        return None if first_path == value_path else first_path


def _truncate(mapping: dict[Any, Any], length: int) -> None:
    """Forget what was added last."""
    while len(mapping) > length:
        mapping.popitem()
