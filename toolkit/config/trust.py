"""Which code a run directory may bring along.

Whoever trains a config runs the code that it names; that is what training is. Whoever opens a run directory has asked
for a model. So a config that was read from one says so (:class:`RunOrigin`), and while such a config is resolved, code
that belongs to no installed distribution runs only if this user has trained that very config with that very code, or
has said ``--trust``. Both are remembered by hash, as direnv does: one small file for each config and file of code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.utils.errors import ComponentError

_LARGEST = 16 << 20  # bytes of one file of code
_HINT = "read it; then --trust, in Python trust=True, runs it from now on"


@dataclass
class RunOrigin:
    """A config that came out of a run directory: what it names was chosen by whoever made that directory.

    :param digest: of what the config says
    :param trusted: whether the user has said that its code may run
    """

    digest: str
    trusted: bool = False


@dataclass(frozen=True)
class _Asking:
    """A config that is being resolved; ``files`` are its files of code so far, by path with their SHA-256."""

    opened: RunOrigin | None
    files: dict[Path, str] = field(default_factory=dict)


# Code is looked up in the midst of checking parameters, which is no business of theirs.
_asking: ContextVar[_Asking | None] = ContextVar("asking", default=None)


def hash_config(data: Any) -> str:
    """Return a hash of what a config says, however it is written."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@contextmanager
def resolving_for(opened: RunOrigin | None) -> Iterator[Mapping[Path, str]]:
    """Look code up for a config, and give the files of code that belong to no installed distribution.

    :param opened: where the config was opened; ``None`` for the user's own, whose code runs
    """
    asking = _Asking(opened)
    token = _asking.set(asking)
    try:
        yield asking.files
    finally:
        _asking.reset(token)


def is_strict() -> bool:
    """Say whether code is being looked up for a config that somebody else may have made."""
    asking = _asking.get()
    return asking is not None and asking.opened is not None


def code_in(path: Path) -> bytes:
    """Read a file of code that is about to run; these bytes, and no compiled copy beside them, are what may run.

    :raises ComponentError: if it cannot be read, or may not run
    """
    path = path.resolve()
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ComponentError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise ComponentError(f"{path} is larger than {_LARGEST >> 20} MiB", "code is a few pages of text")
    asking, digest = _asking.get(), hashlib.sha256(content).hexdigest()
    if asking is None:
        return content
    if asking.opened and asking.opened.trusted:
        remember(asking.opened.digest, {path: digest})
    elif asking.opened and not _remembered(asking.opened.digest, path, digest):
        raise ComponentError(f"the code in {path} has not trained this run here (sha256 {digest[:16]})", _HINT)
    asking.files[path] = digest
    return content


def remember(config: str, files: Mapping[Path, str]) -> None:
    """Let a config's code run from now on when a run with that config is opened.

    :param config: digest of the config
    :param files: SHA-256 by path
    """
    for path, digest in files.items():
        try:
            place = _place(config, path, digest)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.write_text(f"{path}\nsha256 {digest}\n", encoding="utf-8", errors="surrogateescape")
        except (OSError, RuntimeError) as error:  # no home, or none that can be written to
            logging.getLogger("toolkit").warning("opening this run will ask for --trust: %s", error)


def _remembered(config: str, path: Path, digest: str) -> bool:
    try:
        return _place(config, path, digest).is_file()
    except (OSError, RuntimeError):
        return False


def _place(config: str, path: Path, digest: str) -> Path:
    key = hashlib.sha256(os.fsencode(f"{config}\n{digest}\n{path}")).hexdigest()
    return _state_directory() / "toolkit" / "trusted" / key


def _state_directory() -> Path:
    """Return where this user's programs keep what they remember; the XDG specification ignores relative paths."""
    chosen = Path(os.environ.get("XDG_STATE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".local" / "state"
