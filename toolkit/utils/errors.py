"""What can go wrong in a way that a user can mend.

Each error says what is wrong, where, and what to do. The command line prints the message alone and exits with
``exit_status``; anything that is not a :class:`ToolkitError` is a defect of the toolkit.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

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
    """A component that cannot be found, or is not what its place asks for."""


class RunError(ToolkitError):
    """A directory that is no run, or a run that lacks what was asked of it."""


class RecordingError(ToolkitError):
    """A video that could not be made."""

    exit_status = 1


class WatchingError(ToolkitError):
    """Episodes that cannot be shown in a window."""


class NetworkError(ToolkitError):
    """A network whose layers could not be followed."""

    exit_status = 1


class TrainingError(ToolkitError):
    """A training run that broke off; its directory says ``failed``."""

    exit_status = 1


class StorageError(ToolkitError):
    """A database that cannot be reached, or holds another study."""


class TuningError(ToolkitError):
    """A search that found nothing."""

    exit_status = 1


class FaultyEnvironmentError(ToolkitError):
    """An environment that broke its own contract, hangs, or died."""

    exit_status = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config: the dotted path of the value, what is wrong, and what to do."""

    path: KeyPath
    message: str
    hint: str = ""

    def nearest(self, places: Mapping[KeyPath, str]) -> KeyPath | None:
        """Return the path of the innermost key around the problem that has a place."""
        return next((self.path[:end] for end in range(len(self.path), -1, -1) if self.path[:end] in places), None)

    def text(self, places: Mapping[KeyPath, str]) -> str:
        """Put the problem in one line, with the file and line of the innermost key that stands in a file."""
        path = self.nearest(places)
        place = "" if path is None else places[path]
        parts = (place, ".".join(map(str, self.path)), self.message + (f"; {self.hint}" if self.hint else ""))
        return ": ".join(readable(part) for part in parts if part)


class ConfigError(ToolkitError):
    """A config that cannot be run: every problem found, each with its file, line and dotted path.

    :param problems: what is wrong; the message has the first 50, and how many more there are
    :param places: where each dotted path was written, as ``FILE:LINE``
    """

    def __init__(self, problems: Sequence[Problem], places: Mapping[KeyPath, str] | None = None) -> None:
        self.problems = tuple(problems)
        lines = [problem.text(places or {}) for problem in self.problems[:50]]
        super().__init__("\n".join([*lines, f"and {len(problems) - 50} more"] if len(problems) > 50 else lines))
        self._places = dict(places or {})

    def __reduce__(self) -> tuple[type[ConfigError], tuple[object, ...]]:
        """Let it out of the process of an environment."""
        return type(self), (self.problems, self._places)


def readable(text: str, most: int = 600) -> str:
    """Escape what a terminal would not show in one line as it is, and leave out the middle of what is long."""
    text = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def did_you_mean(wrong: str, known: Sequence[str], given: Sequence[str] = (), few: int = 30) -> str:
    """Suggest the closest known name, or list them all when none is close and they are ``few``."""
    absent = [name for name in known if name not in given]
    for names, cutoff in ((absent, 0.75), (given, 0.6), (absent, 0.6)):
        if close := get_close_matches(wrong, names, n=1, cutoff=cutoff):
            return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(sorted(absent))}" if 0 < len(absent) <= few else ""


def describe(error: BaseException) -> str:
    """Say in one line what was raised and, for an exception out of somebody's code, where."""
    if isinstance(error, ToolkitError):
        return str(error).replace("\n", "; ")
    where = ""
    if frames := traceback.extract_tb(error.__traceback__):
        where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    text = " ".join(str(error).split()).partition(" Exception raised from ")[0]  # where torch's C++ code was
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
