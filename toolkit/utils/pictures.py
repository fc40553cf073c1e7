"""Picture files: PNG or SVG by their suffix, whole or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.utils.errors import RunError, ToolkitError
from toolkit.utils.files import atomic_file

_FORMATS = ("png", "svg")


def picture_format(path: Path) -> str:
    """Return ``png`` or ``svg``, as the suffix says.

    :raises ToolkitError: if it says neither
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _FORMATS:
        raise ToolkitError(f"{path}: cannot be drawn: its name must end in .png or .svg", "name another file")
    return suffix


@contextmanager
def picture_file(path: Path) -> Iterator[Path]:
    """Give a path to write a picture to; it takes the place of ``path`` when it is whole.

    :raises RunError: if it cannot be written there
    """
    try:
        with atomic_file(path) as temporary:
            yield temporary
    except OSError as error:
        hint = "choose another place" if path.parent.is_dir() else f"make the directory {path.parent} first"
        raise RunError(f"{path}: cannot be written: {error.strerror or error}", hint) from error
