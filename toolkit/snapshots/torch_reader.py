"""Files of ``torch.save``, read as plain data and tensors; no code that they name is ever called.

``torch.load(weights_only=True)`` refuses foreign code too, but a few bytes can still exhaust it. A ``bytearray`` of a
claimed length or a compressed record takes gigabytes. The hash of a tuple nested a million deep crashes it. This
reader is for files of unknown origin. It knows only the opcodes of state dicts, and takes no more memory than the file
has bytes. It refuses a tensor with more numbers than the file has.
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
T = TypeVar("T")
_MAX_READ = 4 << 20  # bytes of one read; zipfile reads the directory of a zip in one
_MAX_DIMENSIONS = 16


class DamagedWeightsError(ValueError):
    """A file of weights that is damaged or hostile."""


class _Name(str):
    """A name in a pickle. It is one of those that are known here, and only compared."""

    __slots__ = ()


class BoundedFile:
    """A file for :mod:`zipfile` that reads a few MiB at once, even if a zip claims a longer directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read a few MiB at most.

        :raises DamagedWeightsError: if the caller asks for more
        """
        if size > _MAX_READ:
            raise DamagedWeightsError("its directory is too long")
        return self._file.read(_MAX_READ if size < 0 else size)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytearray:
    """Read a member of a zip, stored or deflated.

    :param max_bytes: how many the member may have
    :raises DamagedWeightsError: if the member has more, or claims more
    """
    if info.file_size > max_bytes:
        raise DamagedWeightsError(
            f"{info.filename} claims {info.file_size:,} bytes, and could have {max_bytes:,} at most"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others allocate what they claim
        raise DamagedWeightsError(f"{info.filename} is compressed in an unusual way")
    content = bytearray()
    with archive.open(info) as member:
        while chunk := member.read(1 << 20):
            content += chunk
            if len(content) > max_bytes:
                raise DamagedWeightsError(f"{info.filename} is longer than it claims")
    return content


def read_torch_file(content: bytes | bytearray, max_tensors: int) -> Any:
    """Read what ``torch.save`` wrote: dicts, lists, tuples, numbers, text, and tensors, on the CPU.

    :param max_tensors: about how many the file may have
    :raises DamagedWeightsError: if the file has anything else
    """
    with zipfile.ZipFile(BoundedFile(BytesIO(content))) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        reader = _StateDictUnpickler(archive, records, len(content))
        if "data.pkl" not in records:
            raise DamagedWeightsError("it has no data.pkl; a torch older than 1.6 wrote it, or no torch at all")
        if "byteorder" in records and bytes(reader.read_record("byteorder")) != sys.byteorder.encode():
            raise DamagedWeightsError("it was written on a machine with another byte order")
        pickle = bytes(reader.read_record("data.pkl", (64 << 10) + max_tensors * (2 << 10)))
        return reader.run(pickle)


class _StateDictUnpickler:
    """The part of pickle's machine that builds state dicts.

    :param budget: bytes that all records together may have
    """

    def __init__(self, archive: zipfile.ZipFile, records: dict[str, zipfile.ZipInfo], budget: int) -> None:
        self._archive, self._records, self._budget = archive, records, budget
        self._storages: dict[str, torch.Tensor] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read_record(self, name: str, max_bytes: int | None = None) -> bytearray:
        if name not in self._records:
            raise DamagedWeightsError(f"it has no {name}")
        max_bytes = self._budget if max_bytes is None else min(max_bytes, self._budget)
        content = read_member(self._archive, self._records[name], max_bytes)
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
                raise DamagedWeightsError(f"its pickle has {name}, which no weights need")
        raise DamagedWeightsError("it has no end")

    def _memoize(self, number: Any) -> None:
        self._memo[_check_index(number)] = self._stack[-1]

    def _extend_list(self, items: list[Any]) -> None:
        _as(list, self._stack[-1]).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = _as(dict, self._stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing deeply nested tuples overflows the stack
                raise DamagedWeightsError("a key of it is neither text nor a number")
            target[key] = value

    def _push_name(self, argument: str) -> None:
        if argument not in {_DICT, _TENSOR, _PARAMETER, *_STORAGES}:
            raise DamagedWeightsError(f"it names {argument[:80]!r}, which no weights need")
        self._stack.append(_Name(argument))

    def _call(self, _: Any) -> None:
        name, arguments = self._pop(2)
        self._stack.append(self._build(_as(_Name, name), _as(tuple, arguments)))

    def _drop(self) -> None:
        self._pop(1)

    def _pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise DamagedWeightsError("its pickle is broken")
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        position = len(self._stack) - 1
        while self._stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise DamagedWeightsError("its pickle is broken")
        items = self._stack[position + 1 :]
        del self._stack[position:]
        return items

    def _build(self, name: _Name, arguments: tuple[Any, ...]) -> Any:
        if name == _DICT and not arguments:
            return {}
        if name == _TENSOR:
            return _build_tensor(*arguments[:4])
        if name == _PARAMETER:
            return _as(torch.Tensor, arguments[0])
        raise DamagedWeightsError(f"it calls {name}")

    def _storage(self, tag: Any, name: Any, key: Any, location: Any, numel: Any) -> torch.Tensor:
        """Return all numbers of a storage as one tensor on the CPU."""
        dtype = _STORAGES[_as(_Name, name)]
        if _as(str, key) not in self._storages:
            content = self.read_record(f"data/{key}")
            raw_dtype = torch.uint8 if dtype is torch.bool else dtype
            storage = torch.frombuffer(content, dtype=raw_dtype) if content else torch.empty(0, dtype=raw_dtype)
            self._storages[key] = storage.to(dtype)
        storage = self._storages[key]
        if tag != "storage" or storage.dtype is not dtype or storage.numel() != numel:
            raise DamagedWeightsError(f"data/{key[:80]} is not as long as it should be")
        return storage

    _ACTIONS: ClassVar[dict[str, Callable[[_StateDictUnpickler, Any], None]]] = {
        "EMPTY_DICT": lambda self, _: self._stack.append({}),
        "EMPTY_LIST": lambda self, _: self._stack.append([]),
        "MARK": lambda self, _: self._stack.append(_MARK),
        "BINPUT": _memoize,
        "LONG_BINPUT": _memoize,
        "BINGET": lambda self, number: self._stack.append(self._memo[number]),
        "LONG_BINGET": lambda self, number: self._stack.append(self._memo[number]),
        "TUPLE": lambda self, _: self._stack.append(tuple(self._pop_to_mark())),
        "TUPLE1": lambda self, _: self._stack.append(tuple(self._pop(1))),
        "TUPLE2": lambda self, _: self._stack.append(tuple(self._pop(2))),
        "TUPLE3": lambda self, _: self._stack.append(tuple(self._pop(3))),
        "APPEND": lambda self, _: self._extend_list(self._pop(1)),
        "APPENDS": lambda self, _: self._extend_list(self._pop_to_mark()),
        "SETITEM": lambda self, _: self._set_items(self._pop(2)),
        "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
        # the metadata of a state dict; the model has its own
        "BUILD": lambda self, _: self._drop(),
        "GLOBAL": _push_name,
        "BINPERSID": lambda self, _: self._stack.append(self._storage(*_as(tuple, self._pop(1)[0]))),
        "REDUCE": _call,
    }


def _build_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    content, offset = _as(torch.Tensor, storage), _check_index(offset)
    sizes, strides = ([_check_index(number) for number in _as(tuple, numbers)] for numbers in (size, stride))
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
        raise DamagedWeightsError("a tensor has no proper shape")
    numel = math.prod(sizes)
    last = offset + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if numel > content.numel() or (numel and last >= content.numel()):
        raise DamagedWeightsError(f"a tensor of shape {_shorten(sizes)} claims more numbers than the file has")
    return content.as_strided(sizes, strides, offset) if numel else content[:0].reshape(sizes)


def _as(expected_type: type[T], value: Any) -> T:
    if not isinstance(value, expected_type):
        raise DamagedWeightsError(f"it has a {type(value).__name__} where a {expected_type.__name__} should be")
    return value


def _check_index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise DamagedWeightsError("it has no whole number where one should be")
    return value


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:80]}..."
