"""Files that are whole or absent at any instant, also when the process or the machine stops."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from types import ModuleType

from toolkit.utils.errors import RunError

SMALL_FILE = 1 << 20  # bytes

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where a directory cannot be locked
    fcntl = None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` when it is whole and on the disk.

    Its name cannot be guessed, so that nobody can have put a link there.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) if error.errno else error from error.__cause__
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path, busy: str | None = None) -> Iterator[None]:
    """Keep other processes out of a directory; the lock goes when this process does, and leaves no file behind.

    :param busy: what another process does in it; by default one that has it is waited for
    :raises RunError: if one has it
    """
    descriptor, owner = os.open(directory, os.O_RDONLY), os.getpid()
    try:
        _lock(descriptor, directory, busy)
        yield
    finally:
        if os.getpid() == owner:  # not a copy of it that the caller has forked
            _unlock(descriptor)
        os.close(descriptor)


def _lock(descriptor: int, directory: Path, busy: str | None) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError:
        raise RunError(f"{directory}: another process {busy}", "wait until it has ended, or stop it") from None
    except OSError as error:  # a file system without locks
        logging.getLogger("toolkit").warning("%s: cannot be locked: %s", directory, error.strerror)


def _unlock(descriptor: int) -> None:
    """Give a lock back at once: closing alone leaves it to a process that another thread has just forked."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def claimed(directory: Path, busy: str) -> Iterator[None]:
    """Make a directory, if it is not there, and keep other processes out of it; what stays empty of it goes again.

    :param busy: what another process does in it
    :raises RunError: if it cannot be made, or one has it
    """
    made = [path for path in (directory, *directory.parents) if not os.path.exists(path)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{directory}: cannot be made: {error.strerror}", "choose another place with --out") from None
    try:
        with locked(directory, busy):
            yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()  # if it is empty


@contextmanager
def looking_at(directory: Path, hint: str) -> Iterator[None]:
    """Say what cannot be read of a directory, as a name that is too long.

    :param hint: what to do then
    :raises RunError: then
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or directory}: cannot be read: {error.strerror}", hint) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    :raises RunError: if it cannot be written
    """
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", "make room there, and start again") from error


class AppendOnlyFile:
    """A file that pieces are written to the end of, each whole or not at all.

    It has no buffer, which would be written again, and fail again, when it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: RawIOBase = path.open("ab", buffering=0)

    def write(self, piece: bytes) -> None:
        """Write a piece.

        :raises OSError: if it cannot be written
        """
        end = self._file.tell()
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def sync(path: Path) -> None:
    """Wait until a file, or which files a directory has, is on the disk.

    :raises OSError: if it cannot be written there
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, max_bytes: int = SMALL_FILE) -> str:
    """Read a text file, unless it is too large to be what it is said to be.

    :raises OSError: if it cannot be read
    :raises ValueError: if it is no file, or larger
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("is not a file")
    if state.st_size > max_bytes:
        raise ValueError(f"is larger than {max_bytes >> 20} MiB")
    return path.read_text(encoding="utf-8", errors="replace")
