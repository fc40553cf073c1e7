"""Files of ``torch.save``, read as plain data and tensors; nothing they name is ever called.

``torch.load(weights_only=True)`` refuses foreign code too, but a few bytes still make it take gigabytes (a
``bytearray`` of a claimed length, a compressed record) or crash (the hash of a tuple nested a million deep). Files of
unknown origin are read by what follows: it knows the opcodes that state dicts are made of, takes no more memory than
the file has bytes, and gives no tensor more numbers than are there.
"""

from __future__ import annotations

import math
import pickletools
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO, ClassVar, TypeVar

import torch

_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_DICT, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_MARK = object()
Wanted = TypeVar("Wanted")
_AT_ONCE = 4 << 20  # bytes of one read; the directory of a zip is read at once
_DIMENSIONS = 16


class DamagedError(ValueError):
    """A file that is not what it should be."""


class _Name(str):
    """A name in a pickle: of what is known here, and only compared."""

    __slots__ = ()


class Guarded:
    """A file for :mod:`zipfile` that does not read a directory of any claimed length into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read, a few MiB at most.

        :raises DamagedError: if more was asked for
        """
        if size > _AT_ONCE:
            raise DamagedError("its directory is too long")
        return self._file.read(_AT_ONCE if size < 0 else size)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytearray:
    """Read a member of a zip, stored or deflated.

    :param most: bytes
    :raises DamagedError: if there is, or claims to be, more in it
    """
    if info.file_size > most:
        raise DamagedError(f"{info.filename} claims {info.file_size:,} bytes, and could have {most:,} at most")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others allocate what they claim
        raise DamagedError(f"{info.filename} is compressed in an unusual way")
    content = bytearray()
    with archive.open(info) as member:
        while chunk := member.read(1 << 20):
            content += chunk
            if len(content) > most:
                raise DamagedError(f"{info.filename} is longer than it claims")
    return content


def decode(content: bytes | bytearray, tensors: int) -> Any:
    """Read what ``torch.save`` wrote: dicts, lists, tuples, numbers, text, and tensors, on the CPU.

    :param tensors: how many there may be, about
    :raises DamagedError: if it is anything else
    """
    with zipfile.ZipFile(Guarded(BytesIO(content))) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        reader = _Reader(archive, records, len(content))
        if "data.pkl" not in records:
            raise DamagedError("it has no data.pkl; a torch older than 1.6 wrote it, or no torch at all")
        if "byteorder" in records and bytes(reader.record("byteorder")) != sys.byteorder.encode():
            raise DamagedError("it was written on a machine with another order of bytes")
        pickle = bytes(reader.record("data.pkl", (64 << 10) + tensors * (2 << 10)))
        return reader.run(pickle)


class _Reader:
    """The part of pickle's machine that builds state dicts.

    :param budget: bytes that may be read of all records together; each is read once
    """

    def __init__(self, archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], budget: int) -> None:
        self._archive, self._records, self._budget = archive, records, budget
        self._storages: dict[str, torch.Tensor] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def record(self, name: str, most: int | None = None) -> bytearray:
        if name not in self._records:
            raise DamagedError(f"it has no {name}")
        most = self._budget if most is None else min(most, self._budget)
        content = read_member(self._archive, self._records[name], most)
        self._budget -= len(content)
        return content

    def run(self, pickle: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name == "PROTO":
                continue
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _ARGUMENTS:
                self._stack.append(argument)
            elif name in self._ACTIONS:
                self._ACTIONS[name](self, argument)
            else:
                raise DamagedError(f"its pickle has {name}, which no weights are made of")
        raise DamagedError("it breaks off")

    def _keep(self, number: Any) -> None:
        self._memo[_number(number)] = self._stack[-1]

    def _append(self, items: list[Any]) -> None:
        _as(list, self._stack[-1]).extend(items)

    def _put(self, items: list[Any]) -> None:
        target = _as(dict, self._stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing deeply nested tuples overflows the stack
                raise DamagedError("a key of it is neither text nor a number")
            target[key] = value

    def _name(self, argument: str) -> None:
        if argument not in {_DICT, _TENSOR, _PARAMETER, *_STORAGES}:
            raise DamagedError(f"it names {argument[:80]!r}, which no weights are made of")
        self._stack.append(_Name(argument))

    def _call(self, _: Any) -> None:
        name, arguments = self._last(2)
        self._stack.append(self._made(_as(_Name, name), _as(tuple, arguments)))

    def _drop(self) -> None:
        self._last(1)

    def _last(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise DamagedError("its pickle is broken")
        del self._stack[-count:]
        return items

    def _above_mark(self) -> list[Any]:
        position = len(self._stack) - 1
        while self._stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise DamagedError("its pickle is broken")
        items = self._stack[position + 1 :]
        del self._stack[position:]
        return items

    def _made(self, name: _Name, arguments: tuple[Any, ...]) -> Any:
        if name == _DICT and not arguments:
            return {}
        if name == _TENSOR:
            return _tensor(*arguments[:4])
        if name == _PARAMETER:
            return _as(torch.Tensor, arguments[0])
        raise DamagedError(f"it calls {name}")

    def _storage(self, word: Any, kind: Any, key: Any, location: Any, numel: Any) -> torch.Tensor:
        """Return all numbers of a storage, as one tensor; where it lay does not matter."""
        dtype = _STORAGES[_as(_Name, kind)]
        if _as(str, key) not in self._storages:
            content = self.record(f"data/{key}")
            raw = torch.uint8 if dtype is torch.bool else dtype
            storage = torch.frombuffer(content, dtype=raw) if content else torch.empty(0, dtype=raw)
            self._storages[key] = storage.to(dtype)
        storage = self._storages[key]
        if word != "storage" or storage.dtype is not dtype or storage.numel() != numel:
            raise DamagedError(f"data/{key[:80]} is not as long as it should be")
        return storage

    _ACTIONS: ClassVar[dict[str, Callable[[_Reader, Any], None]]] = {
        "EMPTY_DICT": lambda self, _: self._stack.append({}),
        "EMPTY_LIST": lambda self, _: self._stack.append([]),
        "MARK": lambda self, _: self._stack.append(_MARK),
        "BINPUT": _keep,
        "LONG_BINPUT": _keep,
        "BINGET": lambda self, number: self._stack.append(self._memo[number]),
        "LONG_BINGET": lambda self, number: self._stack.append(self._memo[number]),
        "TUPLE": lambda self, _: self._stack.append(tuple(self._above_mark())),
        "TUPLE1": lambda self, _: self._stack.append(tuple(self._last(1))),
        "TUPLE2": lambda self, _: self._stack.append(tuple(self._last(2))),
        "TUPLE3": lambda self, _: self._stack.append(tuple(self._last(3))),
        "APPEND": lambda self, _: self._append(self._last(1)),
        "APPENDS": lambda self, _: self._append(self._above_mark()),
        "SETITEM": lambda self, _: self._put(self._last(2)),
        "SETITEMS": lambda self, _: self._put(self._above_mark()),
        # what the OrderedDict of a state dict has beside its items; the model has its own
        "BUILD": lambda self, _: self._drop(),
        "GLOBAL": _name,
        "BINPERSID": lambda self, _: self._stack.append(self._storage(*_as(tuple, self._last(1)[0]))),
        "REDUCE": _call,
    }


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    numbers, offset = _as(torch.Tensor, storage), _number(offset)
    sizes, strides = ([_number(one) for one in _as(tuple, whole)] for whole in (size, stride))
    if len(sizes) != len(strides) or len(sizes) > _DIMENSIONS:
        raise DamagedError("a tensor has no proper shape")
    numel = math.prod(sizes)
    last = offset + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if numel > numbers.numel() or (numel and last >= numbers.numel()):
        raise DamagedError(f"a tensor of shape {_short(sizes)} claims more numbers than the file has")
    return numbers.as_strided(sizes, strides, offset) if numel else numbers[:0].reshape(sizes)


def _as(kind: type[Wanted], value: Any) -> Wanted:
    if not isinstance(value, kind):
        raise DamagedError(f"it has a {type(value).__name__} where a {kind.__name__} should be")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise DamagedError("it has no whole number where one should be")
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:80]}..."
