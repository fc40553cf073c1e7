"""Jobs that are launched to see what a launcher does; other processes import them from here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

BEFORE = "written by an earlier call\n"
SAID, SAVED = "said.txt", "saved.txt"
launched_from = 0  # the process that launches; a job's own has 0 here, or its parent's if it was forked

_SAVING = 0.5  # seconds


class NoLuckError(Exception):
    """Cannot be pickled and read back, as many an exception, and says what it has to say in two lines."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n{second}")


def write(directory: Path, said: Any) -> None:
    """Add a line to what earlier calls have written."""
    _begin(directory)
    with (directory / SAID).open("a") as file:
        file.write(json.dumps(said))


def fail(_: Path) -> None:
    """Raise."""
    raise NoLuckError("no luck", "at all")


def die(directory: Path, place: str) -> None:
    """Die, as for want of memory; called again, write."""
    _begin(directory)
    if not _has_begun(place, directory.name):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    (directory / SAID).touch()


def meet(directory: Path, place: str, seconds: float) -> None:
    """End when another job is at work, or after so many seconds."""
    _begin(directory)
    end = time.monotonic() + seconds
    while not [*Path(place).glob("*.began")] and time.monotonic() < end:
        time.sleep(0.02)


def wait(directory: Path, place: str, seconds: float) -> None:
    """Work until told to stop, and then save; a second signal ends the work at once, as it does training."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise SystemExit("was told to stop twice")

    _begin(directory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _has_begun(place, directory.name)
    end = time.monotonic() + seconds
    while not came and time.monotonic() < end and Path(place).exists():
        time.sleep(0.02)
    if came:
        time.sleep(_SAVING)
        (directory / SAVED).touch()


def began(place: Path, name: str) -> Path:
    """Return the file that says a job is at work."""
    return place / f"{name}.began"


def _has_begun(place: str, name: str) -> bool:
    """Say that a job has begun, and whether it had before."""
    file = began(Path(place), name)
    before = file.exists()
    file.touch()
    return before


def _begin(directory: Path) -> None:
    if os.getpid() == launched_from:
        raise RuntimeError("was called in the process that launches")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("was called outside of the main thread of its process, which alone gets signals")
    directory.mkdir(parents=True, exist_ok=True)
