"""Functions that tests launch in other processes, which have to find them by name."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.experiments.launcher import Job


def write(directory: Path, text: str) -> None:
    """Do what is asked, and print nothing."""
    directory.mkdir()
    (directory / "said").write_text(text)


def write_threads(directory: Path) -> None:
    import torch

    write(directory, str(torch.get_num_threads()))


def write_imported(directory: Path, names: list[str]) -> None:
    write(directory, " ".join(str(name in sys.modules) for name in names))


def write_process(directory: Path) -> None:
    """Say which process this is, and which others it shares a terminal's signals with."""
    write(directory, f"{os.getpid()} {os.getpgid(0)}")


def speak(directory: Path) -> None:
    print("printed")
    logging.getLogger("toolkit").warning("warned")
    os.write(2, b"from C\n")


def fail(directory: Path) -> None:
    raise ValueError("no luck")


def leave(directory: Path, status: int) -> None:
    sys.exit(status)


def in_a_thread(directory: Path, job: Job) -> None:
    """Call a job where no signal comes."""
    with ThreadPoolExecutor() as pool:
        pool.submit(job.function, directory, **job.arguments).result()


def be_killed(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def meet(directory: Path, others: int) -> None:
    """Wait until so many jobs are running at once."""
    directory.mkdir()
    while len([*directory.parent.glob("*/")]) < others:
        time.sleep(0.01)


def wait_for_the_end(directory: Path) -> None:
    """Work until SIGTERM, and count how often that comes."""
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    directory.mkdir()
    (directory / "process.new").write_text(str(os.getpid()))
    (directory / "process.new").rename(directory / "process")
    while not came:
        time.sleep(0.01)
    time.sleep(1)
    (directory / "signals").write_text(str(len(came)))
