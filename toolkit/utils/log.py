"""Log messages and Python's warnings on stderr: one line each, as ``warning: FILE:LINE: path: text``."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from toolkit.utils.errors import ConfigError

_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*m")
_LEVELS = {logging.INFO: "note", logging.WARNING: "warning"}

Describe = Callable[[Warning, str], str]
_describe: ContextVar[Describe | None] = ContextVar("describe", default=None)


def configure_logging(force: bool = False) -> None:
    """Write log messages and Python's warnings to stderr.

    Python's filters of warnings stay: ``python -W error`` still raises them.

    :param force: whether to replace handlers that exist
    """
    for level, name in _LEVELS.items():
        logging.addLevelName(level, name)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=force)
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        warning = message if isinstance(message, Warning) else category(message)
        describe, text = _describe.get(), _clean_text(str(warning))
        full_text = describe(warning, text) if describe else f"{text} ({filename}:{lineno})"
        if full_text not in shown:
            shown.add(full_text)
            logging.getLogger("toolkit").warning("%s", full_text)

    warnings.showwarning = show  # type: ignore[assignment]  # Python passes file and line by position


def log_problems(error: ConfigError) -> None:
    """Log the problems of an error as warnings, each in one line: they stop nothing."""
    for line in str(error).splitlines():
        logging.getLogger("toolkit").warning("%s", line)


@contextmanager
def describe_warnings(describe: Describe) -> Iterator[None]:
    """Let :func:`configure_logging` show the warnings of a block as ``describe`` returns them.

    :param describe: gets a warning and its text in one line
    """
    token = _describe.set(describe)
    try:
        yield
    finally:
        _describe.reset(token)


def _clean_text(text: str) -> str:
    """Return a warning's text in one line, without Gymnasium's colours and level."""
    return " ".join(_TERMINAL_CODE.sub("", text).split()).removeprefix("WARN: ")
