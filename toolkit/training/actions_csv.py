"""The histogram of the last actions of training, ``actions.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from toolkit.envs.action_count import ActionCount
from toolkit.utils.errors import RunError
from toolkit.utils.files import read_text

NAME = "actions.csv"
_MAX_BYTES = 1 << 24
_LARGEST_ACTION = 1e150


def format_actions(counts: Sequence[ActionCount]) -> str:
    """Return the content of the file: one row for each action or range; empty text if actions are not kept."""
    if not counts:
        return ""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(ActionCount._fields)
    writer.writerows(counts)
    return file.getvalue()


def read_actions(path: Path) -> list[ActionCount]:
    """Read the file; return an empty list if it does not exist, or is a link.

    :raises RunError: if its content is not what training writes
    """
    try:
        lines = [] if path.is_symlink() else read_text(path, _MAX_BYTES).splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if not lines:
        return []
    if lines[0] != ",".join(ActionCount._fields):
        raise RunError(f"{path}:1: is not the header of an actions.csv", "delete the file")
    return [_parse(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def _parse(path: Path, number: int, line: str) -> ActionCount:
    try:
        component, low, high, steps = line.split(",")
        parsed = ActionCount(int(component), float(low), float(high), int(steps))
        is_range = -_LARGEST_ACTION <= parsed.low <= parsed.high <= _LARGEST_ACTION
        if not is_range or not 0 <= parsed.component < 2**31 or not 0 <= parsed.steps < 2**53:
            raise ValueError("out of range")
    except ValueError:
        raise RunError(f"{path}:{number}: is not a count of actions: {line[:80]!r}", "delete the file") from None
    return parsed
