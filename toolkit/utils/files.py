"""Files that are complete or absent at any instant, also when the process or the machine stops; directory locks."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from types import ModuleType

from toolkit.utils.errors import RunError, ToolkitError

SMALL_FILE = 1 << 20  # bytes
_PICTURE_FORMATS = ("png", "svg")

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows cannot lock a directory
    fcntl = None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it replaces ``path`` when it is complete and on the disk.

    Nobody can guess the temporary name, so nobody can have put a link there.
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
def lock_directory(directory: Path, busy: str | None = None) -> Iterator[None]:
    """Keep other processes out of a directory; the lock ends with this process and leaves no file behind.

    :param busy: what another process does while it has the lock; by default this one waits for it
    :raises RunError: if another process has the lock
    """
    descriptor, owner = os.open(directory, os.O_RDONLY), os.getpid()
    try:
        _lock(descriptor, directory, busy)
        yield
    finally:
        if os.getpid() == owner:  # a forked copy must not release the lock of its parent
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
    """Release a lock at once: a process that another thread has just forked would keep it open beyond a close."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def temporary_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new directory that is removed at the end, and remove those that killed processes have left.

    :param prefix: of its name; directories of other functions do not have it
    :raises OSError: if it cannot be created
    """
    remove_abandoned(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    with ExitStack() as cleanup:
        cleanup.callback(lambda: shutil.rmtree(folder, ignore_errors=True))
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            cleanup.callback(os.close, descriptor)
            _try_lock(descriptor)
        folder = folder.rename(parent / f"{prefix}{secrets.token_hex(8)}")  # others see it now, locked
        yield folder


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove directories of :func:`temporary_directory` whose processes were killed; those in use are locked."""
    for folder in parent.glob(f"{prefix}*"):
        if fcntl is None or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):  # another process has just removed it, or belongs to another user
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                if _try_lock(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock a file or directory unless another process has; return False if it has, or if there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def claim_directory(directory: Path, busy: str) -> Iterator[None]:
    """Create a directory if it does not exist, and lock it; remove what this created and is still empty.

    :param busy: what another process does while it has the lock
    :raises RunError: if it cannot be created, or another process has the lock
    """
    created = [path for path in (directory, *directory.parents) if not os.path.exists(path)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_create(directory, error) from None
    try:
        with lock_directory(directory, busy):
            yield
    finally:
        with suppress(OSError):
            for path in created:
                path.rmdir()  # fails unless it is empty


def cannot_create(directory: Path, error: OSError) -> RunError:
    """Return the error that says why a directory cannot be created."""
    return RunError(f"{directory}: cannot be created: {error.strerror}", "choose another directory with --out")


@contextmanager
def convert_read_errors(directory: Path, hint: str) -> Iterator[None]:
    """Raise a :class:`RunError` for every ``OSError``, such as a name that is too long.

    :param directory: named in the message if the error names no file
    :param hint: what to do then
    :raises RunError: if something cannot be read
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or directory}: cannot be read: {error.strerror}", hint) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    :raises RunError: if it cannot be written
    """
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", "make room there, and start again") from error


def picture_format(path: Path) -> str:
    """Return the format of a picture file by its suffix, ``png`` or ``svg``.

    :raises ToolkitError: for another suffix
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _PICTURE_FORMATS:
        raise ToolkitError(f"{path}: cannot be drawn: its name must end in .png or .svg", "name another file")
    return suffix


@contextmanager
def picture_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to draw to; it replaces ``path`` when it is complete.

    :raises RunError: if it cannot be written
    """
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except OSError as error:
        hint = "choose another file" if path.parent.is_dir() else f"create the directory {path.parent} first"
        raise RunError(f"{path}: cannot be written: {error.strerror or error}", hint) from error


class AppendOnlyFile:
    """A file to append to; each piece is written completely or not at all.

    It has no buffer: on close, a buffer would be written again, and fail again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: RawIOBase = path.open("ab", buffering=0)

    def write(self, piece: bytes) -> None:
        """Append a piece.

        :raises OSError: if it cannot be written
        """
        end = self._file.tell()
        remaining = memoryview(piece)
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def sync(path: Path) -> None:
    """Wait until a file, or the list of a directory's files, is on the disk.

    :raises OSError: if it cannot be written there
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, max_bytes: int = SMALL_FILE) -> str:
    """Read a text file that is not larger than expected.

    :raises OSError: if it cannot be read
    :raises ValueError: if it is not a regular file, or larger
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("is not a file")
    if state.st_size > max_bytes:
        raise ValueError(f"is larger than {max_bytes >> 20} MiB")
    return path.read_text(encoding="utf-8", errors="replace")
