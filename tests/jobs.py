"""Functions that tests launch as jobs. They are in a module so that other processes can import them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit import Job


def write(directory: Path, text: str) -> None:
    """Write a file, and print nothing."""
    directory.mkdir()
    (directory / "text").write_text(text)


def write_threads(directory: Path) -> None:
    import torch

    write(directory, str(torch.get_num_threads()))


def write_imported(directory: Path, names: list[str]) -> None:
    write(directory, " ".join(str(name in sys.modules) for name in names))


def write_process(directory: Path) -> None:
    """Write the number of this process, and of its process group."""
    write(directory, f"{os.getpid()} {os.getpgid(0)}")


def print_lines(directory: Path) -> None:
    print("printed")
    logging.getLogger("toolkit").warning("warned")
    os.write(2, b"from C\n")


def fail(directory: Path) -> None:
    raise ValueError("no luck")


def exit_with(directory: Path, status: int) -> None:
    sys.exit(status)


def call_in_thread(directory: Path, job: Job) -> None:
    """Call a job outside of the main thread, where it gets no signals."""
    with ThreadPoolExecutor() as pool:
        pool.submit(job.function, directory, **job.arguments).result()


def kill_process(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_others(directory: Path, count: int) -> None:
    """Wait until ``count`` jobs run at once."""
    directory.mkdir()
    while len([*directory.parent.glob("*/")]) < count:
        time.sleep(0.01)


def wait_for_sigterm(directory: Path) -> None:
    """Write the number of this process, wait for SIGTERM, and write how often it came within a second more."""
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    directory.mkdir()
    (directory / "process.new").write_text(str(os.getpid()))
    (directory / "process.new").rename(directory / "process")
    while not received:
        time.sleep(0.01)
    time.sleep(1)
    (directory / "signals").write_text(str(len(received)))
