"""Which code a run directory may run.

Whoever trains a config runs the code that it names. Whoever opens a run directory wants a model, and the directory may
come from somebody else. Its config therefore has a :class:`RunOrigin`. Code outside installed distributions then runs
in two cases: this user has trained the same config with the same code, or passes ``--trust``. Both are remembered by
hash, as direnv does: one small file for each pair of config and code file.
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

_MAX_BYTES = 16 << 20  # of one code file
_HINT = "read it; then --trust, in Python trust=True, runs it from now on"


@dataclass
class RunOrigin:
    """The run directory that a config was read from.

    :param config_hash: SHA-256 of the config, see :func:`hash_config`
    :param trusted: whether the user lets its code run
    """

    config_hash: str
    trusted: bool = False


@dataclass(frozen=True)
class _Resolution:
    """A config that is being resolved.

    :param origin: ``None`` for the user's own config
    :param code: SHA-256 of each code file outside installed distributions, so far
    """

    origin: RunOrigin | None
    code: dict[Path, str] = field(default_factory=dict)


# Imports happen deep inside the checks of parameters, which should not pass the origin on.
_current: ContextVar[_Resolution | None] = ContextVar("current", default=None)


def hash_config(data: Any) -> str:
    """Return the SHA-256 of a config's content, independent of how the YAML is written."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@contextmanager
def resolving_for(origin: RunOrigin | None) -> Iterator[Mapping[Path, str]]:
    """Apply the rules of trust to all imports in the block.

    :param origin: the run directory that the config was read from; ``None`` for the user's own, whose code runs
    :return: the SHA-256 of each imported file outside installed distributions; it grows with each import
    """
    resolution = _Resolution(origin)
    token = _current.set(resolution)
    try:
        yield resolution.code
    finally:
        _current.reset(token)


def is_restricted() -> bool:
    """Return whether imports happen for a config that came out of a run directory."""
    resolution = _current.get()
    return resolution is not None and resolution.origin is not None


def read_trusted_code(path: Path) -> bytes:
    """Read a code file that is about to run; only these bytes may run, and no compiled copy beside them.

    :raises ComponentError: if it cannot be read, or may not run
    """
    path = path.resolve()
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ComponentError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ComponentError(f"{path} is larger than {_MAX_BYTES >> 20} MiB", "name a Python source file")
    resolution, digest = _current.get(), hashlib.sha256(content).hexdigest()
    if resolution is None:
        return content
    origin = resolution.origin
    if origin and origin.trusted:
        remember_code(origin.config_hash, {path: digest})
    elif origin and not _is_remembered(origin.config_hash, path, digest):
        raise ComponentError(_describe_untrusted(path, digest), _HINT)
    resolution.code[path] = digest
    return content


def _describe_untrusted(path: Path, digest: str) -> str:
    """Say that code may not run: it has not trained this run, or nobody recorded whether it has."""
    code = f"the code in {path}"
    try:
        home = _get_state_directory().parents[1]
        if home.is_dir():
            return f"{code} has not trained this run here (sha256 {digest[:16]})"
        reason = f"{home} does not exist"
    except (OSError, RuntimeError) as error:  # no home directory
        reason = str(error)
    return f"it is not known whether {code} has trained this run here (sha256 {digest[:16]}): {reason}"


def remember_code(config_hash: str, code: Mapping[Path, str]) -> None:
    """Let code files run from now on whenever a run with that config is opened.

    :param code: SHA-256 by path
    """
    for path, digest in code.items():
        try:
            record = _get_record(config_hash, path, digest)
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            record.write_text(f"{path}\nsha256 {digest}\n", encoding="utf-8", errors="surrogateescape")
        except (OSError, RuntimeError) as error:  # the home directory is missing or read-only
            logging.getLogger("toolkit").warning("opening this run will ask for --trust: %s", error)


def _is_remembered(config_hash: str, path: Path, digest: str) -> bool:
    try:
        return _get_record(config_hash, path, digest).is_file()
    except (OSError, RuntimeError):
        return False


def _get_record(config_hash: str, path: Path, digest: str) -> Path:
    key = hashlib.sha256(os.fsencode(f"{config_hash}\n{digest}\n{path}")).hexdigest()
    return _get_state_directory() / "toolkit" / "trusted" / key


def _get_state_directory() -> Path:
    """Return the XDG state directory of this user; the XDG specification ignores relative paths."""
    directory = Path(os.environ.get("XDG_STATE_HOME", ""))
    return directory if directory.is_absolute() else Path.home() / ".local" / "state"
