"""Files that are whole or absent at any instant, also when the process or the machine stops."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
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


class GrowingFile:
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
