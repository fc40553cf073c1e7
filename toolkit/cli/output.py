"""Stdout holds the result of a command, and nothing that environments, plugins and libraries print."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from typing import TextIO

import typer

from toolkit.utils.errors import ToolkitError

_STDOUT, _STDERR = 1, 2  # what programs in C write to
_results: ContextVar[TextIO | None] = ContextVar("results", default=None)  # set while stdout is reserved


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """Leave stdout to :func:`print_line`; what anything else prints, in Python or C, goes to stderr.

    This includes processes that start meanwhile.
    """
    if sys.stdout is None:  # the program was started without, and another file may have the descriptor
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    try:
        with _open_results(stdout) as results, redirect_stdout(sys.stderr):
            _send_stdout_to_stderr()
            _results.set(results)
            yield
    finally:
        _results.set(None)
        os.dup2(stdout, _STDOUT)
        os.close(stdout)


@contextmanager
def _open_results(stdout: int) -> Iterator[TextIO]:
    """Yield the stream for results: a program that calls the command line may have put its own in place of stdout."""
    try:
        is_own = sys.stdout.fileno() != _STDOUT
    except OSError:
        is_own = True
    if is_own:
        yield sys.stdout
        return
    stream = open(stdout, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    try:
        yield stream
    finally:
        _flush(stream)


def _send_stdout_to_stderr() -> None:
    """Let descriptor 1 lead to stderr, for code that prints without Python."""
    if sys.stderr is None:
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, _STDOUT)
        os.close(null_device)
    else:
        os.dup2(_STDERR, _STDOUT)


def print_line(text: object, end: str = "\n") -> None:
    """Print a result and a newline, or drop it when nobody reads stdout any more.

    :raises ToolkitError: if it cannot be written, for example to a file on a full disk
    """
    try:
        typer.echo(f"{text}{end}", file=_results.get(), nl=False)
    except OSError as error:
        _drop(_results.get() or sys.stdout)  # Python's own flush at exit must not fail either
        if error.errno not in (errno.EPIPE, errno.EIO):  # a closed pipe, a closed terminal
            message = f"stdout: cannot be written to: {error.strerror}"
            raise ToolkitError(message, "make room there, or write to another file") from error


def terminal_width() -> int | None:
    """Return the columns of the terminal that shows the results; None if it is a file or a pipe."""
    stream = _results.get() or sys.stdout
    if stream is None or not stream.isatty():
        return None
    return shutil.get_terminal_size(os.get_terminal_size(stream.fileno())).columns


def flush_output() -> None:
    """Flush stdout and stderr, or drop what is left when terminal or pipe are closed: Python would exit with 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the program was started without
        _flush(stream)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Send what a stream still holds, and what is written to it from now on, nowhere."""
    with open(os.devnull, "w") as null_device, suppress(OSError):
        os.dup2(null_device.fileno(), stream.fileno())
