"""Plain data with arrays in a directory that is there whole or not at all, checked when it is read, and never pickled.

An archive holds ``state.json``, ``arrays.safetensors`` and ``SHA256SUMS``, which ``sha256sum -c`` reads as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from toolkit.utils.errors import RunError, describe
from toolkit.utils.files import sync
from toolkit.utils.memory import installed_memory

_STATE, _ARRAYS, _SUMS = "state.json", "arrays.safetensors", "SHA256SUMS"
_MOST_JSON, _MOST_PARTS = 1 << 24, 1 << 19  # bytes; lists and mappings, which take a hundred bytes of memory each
_TEMPORARY = ".tmp-"


class DamagedError(RunError):
    """An archive is not what was written."""


def write(directory: Path, data: Any) -> None:
    """Write an archive where there is nothing yet.

    It is written under another name, synced, and renamed, so that a crash at any instant leaves it whole or absent.

    :param data: None, bool, int, float, text, arrays, and lists and mappings (text for keys) of these; all but the
        arrays makes 16 MiB of JSON and 500,000 lists and mappings at most
    :raises OSError: if it cannot be written, :func:`read` would refuse it, or there is a directory of that name with
        something in it, which stays as it is; nothing of the archive is left behind
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f"{_TEMPORARY}{directory.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        arrays: dict[str, NDArray[Any]] = {}
        text = json.dumps(_without_arrays(data, arrays))
        if len(text) > _MOST_JSON:  # ASCII
            raise OSError(errno.EFBIG, f"{_STATE} would be larger than {_MOST_JSON >> 20} MiB")
        if _parts(text) > _MOST_PARTS:
            raise OSError(errno.EFBIG, f"{_STATE} would have more than {_MOST_PARTS} lists and mappings")
        (temporary / _STATE).write_text(text, encoding="utf-8")
        save_file(arrays, temporary / _ARRAYS)
        sums = [f"{_sum(temporary / name)}  {name}\n" for name in (_STATE, _ARRAYS)]
        (temporary / _SUMS).write_text("".join(sums), encoding="utf-8")
        for name in (_STATE, _ARRAYS, _SUMS):
            sync(temporary / name)
        sync(temporary)
        temporary.rename(directory)
        sync(directory.parent)
    except SafetensorError as error:  # what it has for a full disk, too
        raise OSError(None, f"{error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(directory: Path, most: int | None = None) -> Any:
    """Read an archive; memory is bounded by the size of its files.

    :param most: bytes that a file of it may have; by default what the machine has of memory
    :raises DamagedError: if it is damaged, or no archive
    :raises RunError: if it cannot be read here, which says nothing against it
    """
    most = most or installed_memory()
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in _text(directory / _SUMS, 1 << 12).splitlines())
        for name in (_STATE, _ARRAYS):
            _refuse_links(directory / name)
            if (directory / name).stat().st_size > (min(most, _MOST_JSON) if name == _STATE else most):
                raise RunError(f"{directory / name}: is too large to be read")
            if _sum(directory / name) != sums.get(name):
                raise DamagedError(f"{directory / name}: is damaged: its checksum is not the one in {_SUMS}")
        text = _text(directory / _STATE, _MOST_JSON)
        if _parts(text) > _MOST_PARTS:
            raise ValueError(f"{_STATE} has more than {_MOST_PARTS} lists and mappings")
        return _with_arrays(json.loads(text), load_file(directory / _ARRAYS))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"{directory}: is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"{directory}: cannot be read: {describe(error)}") from error


def remove(directory: Path) -> None:
    """Delete an archive; it is never seen half deleted."""
    temporary = directory.parent / f"{_TEMPORARY}{directory.name}-old"
    try:
        directory.rename(temporary)
    except FileNotFoundError:
        return
    shutil.rmtree(temporary, ignore_errors=True)


def stored(root: Path) -> Iterator[Path]:
    """Give the archives in a directory by their names, the newest number first."""
    numbered = [
        path
        for path in root.glob("*")
        if path.name.isdecimal() and path.name.isascii() and path.is_dir() and not path.is_symlink()
    ]
    yield from sorted(numbered, key=lambda path: int(path.name), reverse=True)


def _without_arrays(data: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(data, np.ndarray):
        # what has no elements or axes keeps its shape beside it
        arrays[str(len(arrays))] = np.ascontiguousarray(data).reshape(-1)
        return {"$": "array", "array": str(len(arrays) - 1), "shape": list(data.shape)}
    if isinstance(data, dict):
        return {key: _without_arrays(one, arrays) for key, one in data.items()}
    if isinstance(data, list):
        return [_without_arrays(one, arrays) for one in data]
    return data


def _with_arrays(data: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(data, dict):
        if data.get("$") == "array":
            # each is named once, so that a few bytes do not ask for many copies of one
            return arrays.pop(data["array"]).reshape([int(size) for size in data["shape"]])
        return {key: _with_arrays(one, arrays) for key, one in data.items()}
    if isinstance(data, list):
        return [_with_arrays(one, arrays) for one in data]
    return data


def _parts(text: str) -> int:
    """Return how many lists and mappings JSON may have; brackets in its text count as well."""
    return text.count("[") + text.count("{")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path, most: int) -> str:
    _refuse_links(path)
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} is too large")
    return path.read_text(encoding="utf-8")


def _refuse_links(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name} is no file of its own")
