"""Paths in a run directory, in the states of callbacks: a snapshot has them relative to it, so that it may move."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_RUN = "{run}"


def make_relative(data: Any, run_directory: Path) -> Any:
    """Return plain data with ``{run}`` where texts start with the path of the run directory, or with a URL of it."""
    return _replace_start(data, str(run_directory.absolute()), _RUN)


def make_absolute(data: Any, run_directory: Path) -> Any:
    """Return what :func:`make_relative` was given, for the run directory where it is now."""
    return _replace_start(data, _RUN, str(run_directory.absolute()))


def _replace_start(data: Any, old: str, new: str) -> Any:
    if isinstance(data, dict):
        return {key: _replace_start(item, old, new) for key, item in data.items()}
    if isinstance(data, list):
        return [_replace_start(item, old, new) for item in data]
    match = re.match(rf"([a-z][a-z0-9+.-]*:///?)?{re.escape(old)}(?=[/\\]|$)", data) if isinstance(data, str) else None
    return (match[1] or "") + new + data[match.end() :] if match else data
