"""Files of ``torch.save``, read as plain data and tensors; no code that they name is ever called.

``torch.load(weights_only=True)`` refuses foreign code too, but a few bytes can still exhaust it. A ``bytearray`` of a
claimed length or a compressed record takes gigabytes. The hash of a tuple nested a million deep crashes it. This
reader is for files of unknown origin. It knows only the opcodes of state dicts, and takes no more memory than the file
has bytes. It refuses a tensor with more numbers than the file has.
"""

from __future__ import annotations

import math
import pickle
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO, ClassVar

import torch

from toolkit.utils.pickles import (
    Actions,
    DamagedFileError,
    Name,
    PickleReader,
    check_index,
    check_type,
    iterate_opcodes,
)

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
_FORMER_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # of files that torch before 1.6 wrote
_MAX_READ = 4 << 20  # bytes of one read; zipfile reads the directory of a zip in one
_MAX_DIMENSIONS = 16


class BoundedFile:
    """A file for :mod:`zipfile` that reads a few MiB at once, even if a zip claims a longer directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read a few MiB at most.

        :raises DamagedFileError: if the caller asks for more
        """
        if size > _MAX_READ:
            raise DamagedFileError("its directory is too long")
        return self._file.read(_MAX_READ if size < 0 else size)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytearray:
    """Read a member of a zip, stored or deflated.

    :param max_bytes: how many the member may have
    :raises DamagedFileError: if the member has more, or claims more
    """
    if info.file_size > max_bytes:
        raise DamagedFileError(
            f"{info.filename} claims {info.file_size:,} bytes, and could have {max_bytes:,} at most"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others allocate what they claim
        raise DamagedFileError(f"{info.filename} is compressed in an unusual way")
    content = bytearray()
    with archive.open(info) as member:
        while chunk := member.read(1 << 20):
            content += chunk
            if len(content) > max_bytes:
                raise DamagedFileError(f"{info.filename} is longer than it claims")
    return content


def read_torch_file(content: bytes | bytearray, max_tensors: int) -> Any:
    """Read what ``torch.save`` wrote: dicts, lists, tuples, numbers, text, and tensors, on the CPU.

    :param max_tensors: about how many the file may have
    :raises DamagedFileError: if the file has anything else
    """
    max_pickle = (64 << 10) + max_tensors * (2 << 10)
    if content.startswith(_FORMER_START):
        return _read_former_file(content, max_pickle)
    with zipfile.ZipFile(BoundedFile(BytesIO(content))) as archive:
        records = _Records(archive, len(content))
        if "byteorder" in records and bytes(records.read("byteorder")) != sys.byteorder.encode():
            raise DamagedFileError("it was written on a machine with another byte order")
        if "data.pkl" not in records:
            raise DamagedFileError("it has no data.pkl: torch did not write it")
        return _StateDictReader(records.read).run(bytes(records.read("data.pkl", max_pickle)))


class _Records:
    """The records of a file of torch.

    :param budget: bytes that all records together may have
    """

    def __init__(self, archive: zipfile.ZipFile, budget: int) -> None:
        self._archive, self._budget = archive, budget
        self._members = {info.filename.partition("/")[2]: info for info in archive.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, max_bytes: int | None = None) -> bytearray:
        if name not in self._members:
            raise DamagedFileError(f"it has no {name[:80]}")
        max_bytes = self._budget if max_bytes is None else min(max_bytes, self._budget)
        content = read_member(self._archive, self._members[name], max_bytes)
        self._budget -= len(content)
        return content


def _read_former_file(content: bytes | bytearray, max_pickle: int) -> Any:
    """Read what torch before 1.6 wrote: five pickles, then the length and the numbers of each storage."""
    stream = BytesIO(content)
    _, _, system, state, keys = (bytes(content[slice(*_find_pickle(stream, max_pickle))]) for _ in range(5))
    layout = _StorageFinder()
    if check_type(dict, layout.run(system)).get("little_endian") is not (sys.byteorder == "little"):
        raise DamagedFileError("it was written on a machine with another byte order")
    layout.run(state)
    records = {}
    for key in check_type(list, layout.run(keys)):
        numel, size = layout.storages[check_type(str, key)]
        saved_numel = int.from_bytes(stream.read(8), sys.byteorder)
        numbers = bytearray(stream.read(numel * size))
        if saved_numel != numel or len(numbers) != numel * size:
            raise DamagedFileError("a storage of it is not as long as it should be")
        records[f"data/{key}"] = numbers
    return _StateDictReader(records.__getitem__).run(state)


def _find_pickle(stream: BytesIO, max_bytes: int) -> tuple[int, int]:
    """Return where the next pickle of a stream starts and ends."""
    start = stream.tell()
    for _ in iterate_opcodes(stream):
        if stream.tell() - start > max_bytes:
            raise DamagedFileError(f"a pickle of it has more than {max_bytes:,} bytes")
    return start, stream.tell()


class _StateDictReader(PickleReader):
    """The part of pickle's machine that builds state dicts.

    :param read_record: returns the numbers of the record ``data/<key>``
    """

    purpose = "weights"

    def __init__(self, read_record: Callable[[str], bytearray]) -> None:
        super().__init__()
        self._read_record = read_record
        self._storages: dict[str, torch.Tensor] = {}

    def is_known(self, name: str) -> bool:
        return name in (_DICT, _TENSOR, _PARAMETER) or name in _STORAGES

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        if name == _DICT and not arguments:
            return {}
        if name == _TENSOR:
            return _build_tensor(*arguments[:4])
        if name == _PARAMETER:
            return check_type(torch.Tensor, arguments[0])
        raise DamagedFileError(f"it calls {name}")

    def set_state(self, value: Any, state: Any) -> None:
        """Leave out the metadata of a state dict; the model has its own."""

    def find_storage(self, tag: Any, name: Any, key: Any, location: Any, numel: Any, view: Any = None) -> Any:
        """Return all numbers of a storage as one tensor on the CPU."""
        dtype = _STORAGES[check_type(Name, name)]
        if check_type(str, key) not in self._storages:
            content = self._read_record(f"data/{key}")
            raw_dtype = torch.uint8 if dtype is torch.bool else dtype
            storage = torch.frombuffer(content, dtype=raw_dtype) if content else torch.empty(0, dtype=raw_dtype)
            self._storages[key] = storage.to(dtype)
        storage = self._storages[key]
        if tag != "storage" or storage.dtype is not dtype or storage.numel() != numel or view is not None:
            raise DamagedFileError(f"data/{key[:80]} is not as long as it should be")
        return storage

    actions: ClassVar[Actions] = PickleReader.actions | {
        "BINPERSID": lambda self, _: self._stack.append(self.find_storage(*check_type(tuple, self._pop(1)[0]))),
    }


class _StorageFinder(_StateDictReader):
    """Reads a state dict without its numbers.

    :ivar storages: how many numbers each storage has, and bytes of one, by its key
    """

    def __init__(self) -> None:
        super().__init__(lambda _: bytearray())
        self.storages: dict[str, tuple[int, int]] = {}

    def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
        return {} if name == _DICT else None

    def find_storage(self, tag: Any, name: Any, key: Any, location: Any, numel: Any, view: Any = None) -> Any:
        self.storages[check_type(str, key)] = check_index(numel), _STORAGES[check_type(Name, name)].itemsize


def _build_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    content, offset = check_type(torch.Tensor, storage), check_index(offset)
    sizes, strides = ([check_index(number) for number in check_type(tuple, numbers)] for numbers in (size, stride))
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
        raise DamagedFileError("a tensor has no proper shape")
    numel = math.prod(sizes)
    last = offset + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if numel > content.numel() or (numel and last >= content.numel()):
        raise DamagedFileError(f"a tensor of shape {_shorten(sizes)} claims more numbers than the file has")
    return content.as_strided(sizes, strides, offset) if numel else content[:0].reshape(sizes)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:80]}..."
