"""Pickles of unknown origin, read as plain data. No code that they name is imported or called.

A reader knows few opcodes, and compares names with those that it expects. Only the subclass says what stands for a
call. So a pickle can neither run code nor take more memory than a small multiple of its own size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, TypeVar

_MAX_OPCODES = 500_000  # a second of reading
_MAX_NAME_LENGTH = 200  # characters; each use of a name is a copy
_MARK = object()
T = TypeVar("T")
Actions = dict[str, Callable[[Any, Any], None]]


class DamagedFileError(ValueError):
    """A file from elsewhere that is damaged or hostile."""


class Name(str):
    """A name in a pickle, ``module name``. It is one of those that its reader knows, and only compared."""

    __slots__ = ()


def iterate_opcodes(pickle: bytes | BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each opcode of a pickle, up to its end.

    :param pickle: the pickle, or a file that starts with it, and that is then read up to its end
    :raises DamagedFileError: if it has more than 500,000; also what :mod:`pickletools` raises
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if number >= _MAX_OPCODES:
            raise DamagedFileError(f"its pickle has more than {_MAX_OPCODES:,} operations")
        yield opcode.name, argument


class PickleReader:
    """The part of pickle's machine that builds dicts, lists, tuples, numbers and text.

    :cvar purpose: what a message calls the content that the pickle should have
    """

    purpose: ClassVar[str]
    constants: ClassVar[dict[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    arguments: ClassVar[frozenset[str]] = frozenset(
        {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
    )

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """Return what a pickle holds.

        :raises DamagedFileError: if it has anything else than the reader knows; also what :mod:`pickletools` raises
        """
        for name, argument in iterate_opcodes(pickle):
            if name == "STOP":
                return self._pop(1)[0]
            if name in self.constants:
                self._stack.append(self.constants[name])
            elif name in self.arguments:
                self._stack.append(argument)
            elif name in self.actions:
                self.actions[name](self, argument)
            else:
                raise DamagedFileError(f"its pickle has {name}, which no {self.purpose} need")
        raise DamagedFileError("it has no end")

    def is_known(self, name: str) -> bool:
        """Return whether the pickle may have a name, ``module name``."""
        raise NotImplementedError

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        """Return what stands for a call of a name.

        :raises DamagedFileError: if it is not called so
        """
        raise NotImplementedError

    def set_state(self, value: Any, state: Any) -> None:
        """Take the state of what stands for an object."""
        raise NotImplementedError

    def _skip(self, _: Any) -> None:
        """Do nothing for an opcode that changes no data."""

    def _push_name(self, name: str) -> None:
        if len(name) > _MAX_NAME_LENGTH or not self.is_known(name):
            raise DamagedFileError(f"it names {name[:80]!r}, which no {self.purpose} need")
        self._stack.append(Name(name))

    def _memoize(self, number: Any) -> None:
        if not self._stack:
            raise DamagedFileError("its pickle is broken")
        self._memo[check_index(number)] = self._stack[-1]

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise DamagedFileError("its pickle is broken")
        self._stack.append(self._memo[number])

    def _extend_list(self, items: list[Any]) -> None:
        check_type(list, self._top()).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = check_type(dict, self._top())
        if len(items) % 2:
            raise DamagedFileError("its pickle is broken")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing deeply nested tuples overflows the stack
                raise DamagedFileError("a key of it is neither text nor a number")
            target[key] = value

    def _call(self, _: Any) -> None:
        name, arguments = self._pop(2)
        self._stack.append(self.call(check_type(Name, name), check_type(tuple, arguments)))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        self.set_state(self._top(), state)

    def _top(self) -> Any:
        if not self._stack:
            raise DamagedFileError("its pickle is broken")
        return self._stack[-1]

    def _pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise DamagedFileError("its pickle is broken")
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        position = len(self._stack) - 1
        while position >= 0 and self._stack[position] is not _MARK:
            position -= 1
        if position < 0:
            raise DamagedFileError("its pickle is broken")
        items = self._stack[position + 1 :]
        del self._stack[position:]
        return items

    actions: ClassVar[Actions] = {
        "PROTO": _skip,
        "EMPTY_DICT": lambda self, _: self._stack.append({}),
        "EMPTY_LIST": lambda self, _: self._stack.append([]),
        "MARK": lambda self, _: self._stack.append(_MARK),
        "BINPUT": _memoize,
        "LONG_BINPUT": _memoize,
        "BINGET": _recall,
        "LONG_BINGET": _recall,
        "TUPLE": lambda self, _: self._stack.append(tuple(self._pop_to_mark())),
        "TUPLE1": lambda self, _: self._stack.append(tuple(self._pop(1))),
        "TUPLE2": lambda self, _: self._stack.append(tuple(self._pop(2))),
        "TUPLE3": lambda self, _: self._stack.append(tuple(self._pop(3))),
        "APPEND": lambda self, _: self._extend_list(self._pop(1)),
        "APPENDS": lambda self, _: self._extend_list(self._pop_to_mark()),
        "SETITEM": lambda self, _: self._set_items(self._pop(2)),
        "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
        "BUILD": _build,
        "GLOBAL": _push_name,
        "REDUCE": _call,
    }


def check_type(expected_type: type[T], value: Any) -> T:
    """Return a value if it is of a type.

    :raises DamagedFileError: if it is not
    """
    if not isinstance(value, expected_type):
        raise DamagedFileError(f"it has a {type(value).__name__} where a {expected_type.__name__} should be")
    return value


def check_index(value: Any) -> int:
    """Return a value if it is a whole number from 0 to 2**62 - 1.

    :raises DamagedFileError: if it is not
    """
    if type(value) is not int or not 0 <= value < 2**62:
        raise DamagedFileError("it has no whole number where one should be")
    return value
