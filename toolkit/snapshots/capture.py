"""What an object holds, as plain data, and back into another like it.

Nothing is ever constructed from a name in the data. Numbers, text, arrays, tensors, generators and Python's own
containers are made anew; everything else, an object, a network, a named tuple, a container of another type, is put
into the one that is at the same place. So it has to have been there when training started, of the same type: of what
training makes later, the attribute that holds it is named as missed, and not kept. So is what cannot be seen in its
data: that a function is another one, that an attribute holds another one of the objects, that an attribute is gone.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch

from toolkit.snapshots.object_kinds import (
    CONTAINERS,
    STATIC,
    has_state_dict,
    is_frozen,
    is_live,
    is_object,
    is_pointed_at,
    references,
)
from toolkit.snapshots.plain_data import PLAIN, NotPlainError, checked, listed, turned

Live = Mapping[str, Mapping[tuple[Any, ...], Any]]
_DEPTH = 8


class CapturedState(NamedTuple):
    """What an object holds.

    :param state: plain data
    :param missed: names of attributes, also of objects in attributes, that cannot be put back
    :param live: by attribute, what is known of all that can only be put into the one that is there, by its place;
        by an object's path and a dot, the names of its attributes
    """

    state: dict[str, Any]
    missed: list[str]
    live: Live


def capture(owner: Any, elsewhere: Iterable[Any] = (), start: Live | None = None) -> CapturedState:
    """Return what an object holds: what its ``state_dict`` says, or else its attributes.

    :param elsewhere: what others look after, wherever it is held
    :param start: what was live when training started; None if it starts now
    """
    capturing = _Capturing(elsewhere, start)
    try:
        state = capturing.whole(owner, "", 0)
    except NotPlainError:
        return CapturedState({"$": "nothing"}, ["what its state_dict returns"], {})
    return CapturedState(state, capturing.missed, capturing.live)


def attributes(
    owner: Any, skipped: Collection[str], elsewhere: Iterable[Any] = (), start: Live | None = None
) -> CapturedState:
    """Return the attributes of an object but those ``skipped``, as :func:`capture` does."""
    capturing = _Capturing(elsewhere, start)
    return CapturedState(capturing.attributes(owner, skipped, "", 0), capturing.missed, capturing.live)


def encode(value: Any) -> Any:
    """Turn a value into plain data, to be put into one like it; arrays are not copied.

    :raises NotPlainError: if it cannot be put back
    """
    capturing = _Capturing((), None)
    encoded = capturing.encode(value, _Way("", (), 0))
    if capturing.missed:
        raise NotPlainError
    return encoded


def encode_value(value: Any) -> Any:
    """Turn a value into plain data of which all can be made anew, wherever it is put.

    :raises NotPlainError: if it cannot
    """
    capturing = _Capturing((), None)
    encoded = capturing.encode(value, _Way("", (), 0))
    if capturing.live:
        raise NotPlainError
    return encoded


class _Way(NamedTuple):
    """Where in an object a value is: the nearest attribute, the place in it, and how deep that is."""

    attribute: str
    place: tuple[Any, ...]
    depth: int

    def to(self, key: Any) -> _Way:
        return _Way(self.attribute, (*self.place, key), self.depth + 1)


class _Capturing:
    """One object's state on its way to plain data."""

    def __init__(self, elsewhere: Iterable[Any], start: Live | None) -> None:
        self._elsewhere = frozenset(map(id, elsewhere))
        self._start = start
        self.missed: list[str] = []
        self.live: dict[str, dict[tuple[Any, ...], Any]] = {}
        self._places: dict[int, tuple[Any, ...]] = {}  # by id, where what can be held twice was met first

    def whole(self, owner: Any, path: str, depth: int) -> dict[str, Any]:
        if has_state_dict(owner):
            return {"$": "own", "state": encode_value(owner.state_dict())}
        return {"$": "attributes", "state": self.attributes(owner, references(owner), path, depth)}

    def attributes(self, owner: Any, skipped: Collection[str], path: str, depth: int) -> dict[str, Any]:
        held = {}
        outside, self._elsewhere = self._elsewhere, self._elsewhere | {id(owner)}  # what is in it may refer to it
        for name, value in [*vars(owner).items()]:  # some may be set where it is asked for its state
            if name in skipped:
                continue
            here, missed, met = f"{path}.{name}" if path else name, len(self.missed), len(self._places)
            try:
                data = self.encode(value, _Way(here, (), depth))
                if self._start is not None and self.live.get(here, {}) != self._start.get(here, {}):
                    raise NotPlainError
            except NotPlainError:
                self.missed[missed:] = [here]
                self.live[here] = {("what cannot be written",): ""}
                self._forget(met)
                continue
            if not (isinstance(data, dict) and data.get("$") == "known"):
                held[name] = data
        self._elsewhere = outside
        self._miss_gone({name for name in vars(owner) if name not in skipped}, path)
        return held

    def _miss_gone(self, names: set[str], path: str) -> None:
        """Name the attributes that the object had at the start: the one it is put into has them."""
        gone = [name for (name,) in (self._start or {}).get(f"{path}.", {}) if name not in names]
        self.missed += [f"{path}.{name}" if path else name for name in gone]
        self.live[f"{path}."] = {(name,): None for name in names}

    def _first(self, value: Any, way: _Way) -> tuple[Any, ...] | None:
        """Return where the same object was met before."""
        here = (way.attribute, way.place)
        first = self._places.setdefault(id(value), here)
        return None if first == here else first

    def _forget(self, met: int) -> None:
        """Forget what was met after so many: it is not kept there, or in a copy."""
        while len(self._places) > met:
            self._places.popitem()

    def encode(self, value: Any, way: _Way) -> Any:
        if type(value) in PLAIN:
            return checked(value)
        if way.depth > _DEPTH:
            raise NotPlainError
        if id(value) in self._elsewhere or is_live(value):
            return self._live(value, way)
        if type(value) not in CONTAINERS:
            return turned(value)
        # two attributes would each get one of their own; what a state_dict returns is only read
        if way.attribute and not isinstance(value, tuple | frozenset) and self._first(value, way):
            raise NotPlainError
        return self._contained(value, way)

    def _live(self, value: Any, way: _Way) -> dict[str, Any]:
        kind, known = type(value).__name__, id(value) in self._elsewhere
        static = isinstance(value, STATIC) and not known
        first = self._first(value, way) if is_pointed_at(value) and not known else None
        self.live.setdefault(way.attribute, {})[way.place] = (kind, value if static else None, first)
        if static or known or first:
            return {"$": "known"}
        met, inside = len(self._places), self._inside(value, way)
        if is_frozen(value):
            self._forget(met)
        return {"$": "live", "type": kind, "state": inside}

    def _inside(self, value: Any, way: _Way) -> Any:
        if isinstance(value, Enum):
            if value.name not in type(value).__members__:  # flags together
                raise NotPlainError
            return value.name
        if isinstance(value, torch.Tensor | np.random.Generator):
            return turned(value)
        if isinstance(value, CONTAINERS) and (hasattr(value, "_fields") or not isinstance(value, tuple)):
            if getattr(value, "__dict__", None):
                raise NotPlainError
            return self._contained(value, way)
        if not is_object(value):
            raise NotPlainError
        return self.whole(value, ".".join(map(str, (way.attribute, *way.place))), way.depth + 1)

    def _contained(self, value: Any, way: _Way) -> Any:
        if isinstance(value, list):
            return self._each(value, way)
        if isinstance(value, deque):
            return {"$": "deque", "items": self._each(value, way), "maxlen": value.maxlen}
        if isinstance(value, tuple):
            return {"$": "tuple", "items": self._each(value, way)}
        if isinstance(value, dict):
            return self._mapping(value, way)
        kind = "set" if isinstance(value, set) else "frozenset"
        return {"$": kind, "items": [encode_value(one) for one in sorted(value, key=repr)]}

    def _each(self, values: Iterable[Any], way: _Way) -> Any:
        return listed(
            [
                checked(one) if type(one) in PLAIN else self.encode(one, way.to(index))
                for index, one in enumerate(values)
            ]
        )

    def _mapping(self, mapping: dict[Any, Any], way: _Way) -> dict[str, Any]:
        pairs = [(key, self.encode(one, way.to(key))) for key, one in mapping.items()]
        if type(mapping) is dict and all(type(key) is str for key in mapping) and "$" not in mapping:
            return dict(pairs)
        kind = type(mapping).__name__ if type(mapping) in (OrderedDict, Counter) else "dict"
        return {"$": "mapping", "of": kind, "pairs": [[encode_value(key), one] for key, one in pairs]}
