"""Errors that a user can correct, and the text of their messages.

Each error says what is wrong, where, and what to do. The command line prints the message alone and exits with
``exit_status``; an exception that is not a :class:`ToolkitError` is a defect of the toolkit.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

from toolkit.utils.text import abbreviate

KeyPath = tuple[str | int, ...]


class ToolkitError(Exception):
    """Base of the toolkit's errors.

    :param message: what is wrong, and where
    :param hint: what to do about it
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


class ComponentError(ToolkitError):
    """A component that does not exist, or is not of the required kind."""


class RunError(ToolkitError):
    """A directory that is not a run, or a run that lacks a requested file."""


class RecordingError(ToolkitError):
    """A video that could not be recorded."""

    exit_status = 1


class WatchingError(ToolkitError):
    """Episodes that cannot be shown in a window."""


class NetworkError(ToolkitError):
    """A network whose layers could not be traced."""

    exit_status = 1


class TrainingError(ToolkitError):
    """A training run that failed; the status in its directory is ``failed``."""

    exit_status = 1


class StorageError(ToolkitError):
    """A database that cannot be reached, or holds another study."""


class TuningError(ToolkitError):
    """A search without a result."""

    exit_status = 1


class FaultyEnvironmentError(ToolkitError):
    """An environment that violates Gymnasium's interface, hangs, or died."""

    exit_status = 1


class LostEnvironmentError(FaultyEnvironmentError):
    """An environment whose process hangs or died."""


@dataclass(frozen=True)
class Problem:
    """One problem of a config: the dotted path of the value, what is wrong, and what to do."""

    path: KeyPath
    message: str
    hint: str = ""

    def nearest(self, locations: Mapping[KeyPath, str]) -> KeyPath | None:
        """Return the path of the innermost key around the problem that has a location."""
        ends = range(len(self.path), -1, -1)
        return next((self.path[:end] for end in ends if self.path[:end] in locations), None)

    def text(self, locations: Mapping[KeyPath, str]) -> str:
        """Return the problem in one line, with the file and line of the innermost key that has a location."""
        path = self.nearest(locations)
        location = "" if path is None else locations[path]
        parts = (location, ".".join(map(str, self.path)), self.message + (f"; {self.hint}" if self.hint else ""))
        return ": ".join(make_printable(part) for part in parts if part)


class ConfigError(ToolkitError):
    """A config that cannot be run, with every problem: file, line and dotted path.

    :param problems: what is wrong; the message has the first 50, and the number of the others
    :param locations: where each dotted path was written, as ``FILE:LINE``
    """

    def __init__(self, problems: Sequence[Problem], locations: Mapping[KeyPath, str] | None = None) -> None:
        self.problems = tuple(problems)
        lines = [problem.text(locations or {}) for problem in self.problems]
        super().__init__("\n".join(abbreviate(lines, 50)))
        self._locations = dict(locations or {})

    def __reduce__(self) -> tuple[type[ConfigError], tuple[object, ...]]:
        """Allow pickling, so that it can leave the subprocess of an environment."""
        return type(self), (self.problems, self._locations)


def make_printable(text: str, max_length: int = 600) -> str:
    """Escape what a terminal cannot show in one line, and leave out the middle of a long text."""
    if len(text) > max_length:
        text = f"{text[: max_length // 2]} ... {text[-max_length // 2 :]}"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def did_you_mean(wrong: str, candidates: Sequence[str], present: Sequence[str] = (), max_listed: int = 30) -> str:
    """Suggest the closest known name, whatever its case; list all if none is close.

    :param present: names that exist already, and are suggested last
    :param max_listed: list nothing if there are more names
    """
    absent = [name for name in candidates if name not in present]
    for names, cutoff in ((absent, 0.75), (present, 0.6), (absent, 0.6)):
        by_lower_case = {name.lower(): name for name in reversed(names)}
        if close := get_close_matches(wrong.lower(), by_lower_case, n=1, cutoff=cutoff):
            return f"did you mean '{by_lower_case[close[0]]}'?"
    return f"known: {', '.join(sorted(absent))}" if 0 < len(absent) <= max_listed else ""


_STANDARD_LIBRARY, _TOOLKIT = (
    f"{directory}{os.sep}" for directory in (Path(os.__file__).parent, Path(__file__).parents[1])
)


def _is_in_standard_library(file: str) -> bool:
    return file.startswith((_STANDARD_LIBRARY, "<frozen ")) and "site-packages" not in file


def describe_error(error: BaseException) -> str:
    """Return one line that says what was raised and, unless the toolkit raised it, at which file and line.

    Of an error in Python's own library, that is the line that called it. None is given where the toolkit called it.
    """
    if isinstance(error, ToolkitError):
        return str(error).replace("\n", "; ")
    location = ""
    frames = traceback.extract_tb(error.__traceback__)
    callers = [frame for frame in frames if not _is_in_standard_library(frame.filename)]
    if callers and (callers[-1] is frames[-1] or not callers[-1].filename.startswith(_TOOLKIT)):
        location = f" ({callers[-1].filename}:{callers[-1].lineno})"
    text = " ".join(str(error).split()).partition(" Exception raised from ")[0]  # torch adds a C++ traceback
    return f"{type(error).__name__}: {text}{location}" if text else f"{type(error).__name__}{location}"
