"""Plain data with arrays in a directory: written whole or not at all, checked when it is read, never pickled.

An archive holds ``state.json``, ``arrays.safetensors`` and ``SHA256SUMS``, which ``sha256sum -c`` checks as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from toolkit.utils.errors import RunError, describe_error
from toolkit.utils.files import sync
from toolkit.utils.memory import installed_memory

_STATE, _ARRAYS, _SUMS = "state.json", "arrays.safetensors", "SHA256SUMS"
_MAX_JSON, _MAX_CONTAINERS = 1 << 24, 1 << 19  # bytes; lists and mappings, each of a hundred bytes of memory
_TEMPORARY = ".tmp-"


class DamagedArchiveError(RunError):
    """An archive that differs from what was written."""


def write(directory: Path, data: Any, before_rename: Callable[[], object] = lambda: None) -> None:
    """Write an archive to a directory that does not exist yet.

    It is written under another name, synced and renamed, so that a crash at any instant leaves it whole or absent.

    :param data: plain data; without the arrays at most 16 MiB of JSON and 500,000 lists and mappings
    :param before_rename: called when everything is written, just before the archive has its name
    :raises OSError: if it cannot be written, :func:`read` would refuse it, or the directory exists and is not empty.
        Then no part of the archive remains, and an existing directory is unchanged
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f"{_TEMPORARY}{directory.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        arrays: dict[str, NDArray[Any]] = {}
        text = json.dumps(_extract_arrays(data, arrays))
        if len(text) > _MAX_JSON:  # ASCII
            raise OSError(errno.EFBIG, f"{_STATE} would be larger than {_MAX_JSON >> 20} MiB")
        if _count_containers(text) > _MAX_CONTAINERS:
            raise OSError(errno.EFBIG, f"{_STATE} would have more than {_MAX_CONTAINERS} lists and mappings")
        (temporary / _STATE).write_text(text, encoding="utf-8")
        save_file(arrays, temporary / _ARRAYS)
        sums = [f"{_compute_checksum(temporary / name)}  {name}\n" for name in (_STATE, _ARRAYS)]
        (temporary / _SUMS).write_text("".join(sums), encoding="utf-8")
        for name in (_STATE, _ARRAYS, _SUMS):
            sync(temporary / name)
        sync(temporary)
        before_rename()
        temporary.rename(directory)
        sync(directory.parent)
    except SafetensorError as error:  # also if the disk is full
        raise OSError(None, f"{error}") from error
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(directory)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fits(data: Any, max_bytes: int) -> bool:
    """Return whether plain data takes at most so many bytes in an archive, and few enough lists and mappings."""
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps(_extract_arrays(data, arrays))
    n_bytes = len(text) + sum(array.nbytes for array in arrays.values())
    return n_bytes <= max_bytes and _count_containers(text) <= _MAX_CONTAINERS


def read(directory: Path, max_bytes: int | None = None) -> Any:
    """Read an archive; it takes no more memory than its files are large.

    :param max_bytes: size that a file of it may have; by default the memory of the machine
    :raises DamagedArchiveError: if it is damaged, or no archive
    :raises RunError: if this machine cannot read it, though it may be valid
    """
    max_bytes = max_bytes or installed_memory()
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in _read_text(directory / _SUMS, 1 << 12).splitlines())
        for name in (_STATE, _ARRAYS):
            _refuse_links(directory / name)
            if (directory / name).stat().st_size > (min(max_bytes, _MAX_JSON) if name == _STATE else max_bytes):
                raise RunError(f"{directory / name}: is too large to be read")
            if _compute_checksum(directory / name) != sums.get(name):
                raise DamagedArchiveError(f"{directory / name}: is damaged: its checksum is not the one in {_SUMS}")
        text = _read_text(directory / _STATE, _MAX_JSON)
        if _count_containers(text) > _MAX_CONTAINERS:
            raise ValueError(f"{_STATE} has more than {_MAX_CONTAINERS} lists and mappings")
        return _insert_arrays(json.loads(text), load_file(directory / _ARRAYS))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedArchiveError(f"{directory}: is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"{directory}: cannot be read: {describe_error(error)}") from error


def remove(directory: Path) -> None:
    """Delete an archive. It is renamed first, so that it never looks valid when it is half deleted."""
    temporary = directory.parent / f"{_TEMPORARY}{directory.name}-old"
    try:
        directory.rename(temporary)
    except FileNotFoundError:
        return
    shutil.rmtree(temporary, ignore_errors=True)


def list_archives(root: Path) -> Iterator[Path]:
    """Yield the archives in a directory whose names are numbers, from the greatest to the least."""
    numbered = [
        path
        for path in root.glob("*")
        if path.name.isdecimal() and path.name.isascii() and path.is_dir() and not path.is_symlink()
    ]
    yield from sorted(numbered, key=lambda path: int(path.name), reverse=True)


def _extract_arrays(data: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(data, np.ndarray):
        # safetensors loses the shape of an array without elements or axes
        arrays[str(len(arrays))] = np.ascontiguousarray(data).reshape(-1)
        return {"$": "array", "array": str(len(arrays) - 1), "shape": list(data.shape)}
    if isinstance(data, dict):
        return {key: _extract_arrays(item, arrays) for key, item in data.items()}
    if isinstance(data, list):
        return [_extract_arrays(item, arrays) for item in data]
    return data


def _insert_arrays(data: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(data, dict):
        if data.get("$") == "array":
            # each may be named once, so that a few bytes cannot ask for many copies
            return arrays.pop(data["array"]).reshape([int(size) for size in data["shape"]])
        return {key: _insert_arrays(item, arrays) for key, item in data.items()}
    if isinstance(data, list):
        return [_insert_arrays(item, arrays) for item in data]
    return data


def _count_containers(text: str) -> int:
    """Return how many lists and mappings JSON has at most; brackets in its strings count as well."""
    return text.count("[") + text.count("{")


def _compute_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(path: Path, max_bytes: int) -> str:
    _refuse_links(path)
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path.name} is too large")
    return path.read_text(encoding="utf-8")


def _refuse_links(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name} is a link, or no file")
