"""Jobs for checks of launchers. The launcher's processes import them from here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

EARLIER_OUTPUT = "written by an earlier call\n"
OUTPUT_FILE, SAVED_FILE = "output.txt", "saved.txt"
launching_process = 0  # set in the process that launches; in a job's own process 0, or the parent's if it was forked

_SAVE_SECONDS = 0.5
_POLL_SECONDS = 0.02


class NoLuckError(Exception):
    """An exception that cannot be unpickled, like many others, with a message of two lines."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n{second}")


def append_output(directory: Path, content: Any) -> None:
    """Append a line of JSON to the output of earlier calls."""
    _begin(directory)
    with (directory / OUTPUT_FILE).open("a") as file:
        file.write(json.dumps(content))


def raise_error(_: Path) -> None:
    """Raise an exception that cannot be unpickled."""
    raise NoLuckError("no luck", "at all")


def kill_own_process(directory: Path, marker_folder: str) -> None:
    """Kill the own process, as if memory ran out; in a second call, write output."""
    _begin(directory)
    if not _mark_start(marker_folder, directory.name):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    (directory / OUTPUT_FILE).touch()


def wait_for_other_job(directory: Path, marker_folder: str, seconds: float) -> None:
    """End when another job has started, or after so many seconds."""
    _begin(directory)
    end = time.monotonic() + seconds
    while not [*Path(marker_folder).glob("*.started")] and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def wait_for_signal(directory: Path, marker_folder: str, seconds: float) -> None:
    """Work until a signal, then save. A second signal ends the work at once, as in training."""
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise SystemExit("got a second signal")

    _begin(directory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    _mark_start(marker_folder, directory.name)
    end = time.monotonic() + seconds
    while not signals and time.monotonic() < end and Path(marker_folder).exists():
        time.sleep(_POLL_SECONDS)
    if signals:
        time.sleep(_SAVE_SECONDS)
        (directory / SAVED_FILE).touch()


def has_started(marker_folder: Path, name: str) -> bool:
    """Return whether a job has started."""
    return _start_marker(marker_folder, name).exists()


def _mark_start(marker_folder: str, name: str) -> bool:
    """Create a job's start marker; return whether it existed before."""
    marker = _start_marker(Path(marker_folder), name)
    has_started_before = marker.exists()
    marker.touch()
    return has_started_before


def _start_marker(marker_folder: Path, name: str) -> Path:
    return marker_folder / f"{name}.started"


def _begin(directory: Path) -> None:
    """Refuse to run in the launching process or outside of a main thread; create the job's directory."""
    if os.getpid() == launching_process:
        raise RuntimeError("was called in the process that launches")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("was called outside of the main thread of its process, which alone gets signals")
    directory.mkdir(parents=True, exist_ok=True)
