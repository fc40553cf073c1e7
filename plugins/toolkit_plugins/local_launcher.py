"""Jobs in processes of this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from toolkit.experiments.launcher import MAX_ERROR_LENGTH, Ended, Job, Launcher
from toolkit.utils import processes
from toolkit.utils.errors import ToolkitError, describe_error

_PRELOADED = ("toolkit.evaluation.preload", "scipy.stats")  # the latter for evaluations
_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
_SECONDS_OF_GRACE = 0.5
_GUARD = "a script that trains needs `if __name__ == '__main__':` around what it does"


class LocalLauncher(Launcher):
    """Runs jobs on this machine, each in a process of its own.

    torch computes with as many threads in each as there are cores for it. What a job prints, and its warnings, are in
    ``log-<directory>.txt`` beside its directory. A process whose parent has died is stopped as by ``SIGTERM``.

    :param workers: how many jobs are run at once, at least 1; by default as many as there are cores
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError("workers should be at least 1")
        cores = processes.available_cores()
        self._workers = cores if workers is None else workers
        self._threads = max(1, cores // self._workers)

    def prepare(self) -> None:
        """Start the process that the others are forked from, which imports what they need.

        :raises ToolkitError: if this program cannot be imported in other processes
        """
        _refuse_unreadable_script()
        context = processes.start_context(_PRELOADED)
        if context.get_start_method() == "forkserver":
            from multiprocessing import forkserver

            try:
                with processes.block_signals(*_STOPPING):
                    forkserver.ensure_running()
            except RuntimeError:  # of multiprocessing, in a job's process, which imports the script
                sys.exit(_GUARD)

    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order, and give each when it has ended.

        :raises ToolkitError: if this program cannot be imported in other processes
        """
        self.prepare()
        running: dict[int, _Running] = {}
        try:
            for job in jobs:
                while len(running) >= self._workers:
                    yield from _ended(running)
                with processes.block_signals(*_STOPPING):  # so that none is started and not known
                    started = _Running.start(job, self._threads)
                    running[started.process.sentinel] = started
            while running:
                yield from _ended(running)
        finally:
            _stop(running)


def _refuse_unreadable_script() -> None:
    """Refuse a script that no file has, as of `python < script.py`: multiprocessing imports it in each process."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if main.__spec__ is None and file is not None and not os.path.exists(file):
        raise ToolkitError(f"{file}: this script is not in a file, which other processes need", "run it from one")


def _ended(running: dict[int, _Running]) -> Iterator[Ended]:
    """Wait until jobs have ended."""
    for sentinel in {*running} & {*wait([*running])}:
        yield running.pop(sentinel).ending()


def _stop(running: dict[int, _Running]) -> None:
    """Have jobs stop where they can be saved, and wait; at once if a signal comes meanwhile, by force after two."""
    if not running:
        return
    logging.getLogger("toolkit").warning("stopping where runs can be saved; once more stops them at once")
    try:
        _terminate(running)
    except BaseException:
        try:
            _terminate(running)
        except BaseException:
            for one in running.values():
                one.process.kill()
            raise
        raise


def _terminate(running: dict[int, _Running]) -> None:
    for one in running.values():
        with suppress(OSError):  # it has ended
            one.talk.send(None)
    for one in running.values():
        one.process.join()
        one.clean_up()


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    talk: Connection
    log: Path

    @classmethod
    def start(cls, job: Job, threads: int) -> _Running:
        context = processes.start_context(_PRELOADED)
        here, there = context.Pipe()
        log = job.directory.parent / f"log-{job.directory.name}.txt"
        process = context.Process(target=_work, args=(job, log, there, threads))  # type: ignore[attr-defined]
        process.start()
        there.close()
        return cls(job, process, here, log)

    def ending(self) -> Ended:
        """Say how the job has ended.

        :raises ToolkitError: if its process has not come so far as to call it: others would not, either
        """
        self.process.join()
        has_begun = self.log.exists()
        self.clean_up()
        with suppress(EOFError, OSError):
            if self.talk.poll():
                return Ended(self.job, self.talk.recv())
        code = self.process.exitcode or 0
        error = f"its process {processes.describe_exit(code)}"
        if code == -getattr(signal, "SIGKILL", 0):
            error += ", perhaps for want of memory"
        elif code > 0 and not has_begun:
            raise ToolkitError(f"{self.job.name}: {error} before the job began", _GUARD)
        return Ended(self.job, error)

    def clean_up(self) -> None:
        """Remove a log that says nothing."""
        with suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()


def _work(job: Job, log: Path, talk: Connection, threads: int) -> None:
    """Be the process of a job."""
    _leave_the_terminal()
    if hasattr(os, "setpgid"):  # on Windows Ctrl-C reaches all processes, and no other signal can be handled
        threading.Thread(target=_heed, args=(talk, _Signals()), daemon=True).start()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        _write_to(log)
    except OSError as error:
        talk.send(describe_error(error)[:MAX_ERROR_LENGTH])
    else:
        talk.send(_failure_of(job, threads))


def _failure_of(job: Job, threads: int) -> str | None:
    """Call a job; return why it failed."""
    try:
        _use_threads(threads)
        job.function(job.directory, **job.arguments)
    except KeyboardInterrupt:
        return "was stopped"
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # the disk is full, perhaps
            traceback.print_exc()
        return describe_error(error)[:MAX_ERROR_LENGTH]
    return None


def _leave_the_terminal() -> None:
    """Get no signal that a terminal sends to a group of processes: the parent passes on the one that it gets."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {getattr(signal, name) for name in _STOPPING})


class _Signals:
    """Counts the signals that this process gets, from whomever."""

    def __init__(self) -> None:
        self._came, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._count = 0

    def reach(self, count: int) -> bool:
        """Wait a little until there have been so many; say whether there have."""
        while self._count < count and wait([self._came], timeout=_SECONDS_OF_GRACE):
            self._count += len(os.read(self._came, 1))
        return self._count >= count


def _heed(talk: Connection, signals: _Signals) -> None:
    """Be stopped when the parent says so, and when it has died.

    What stops a whole batch job, as Slurm does, has sent its signal here too: another one would stop the job at once.
    """
    told = 0
    with suppress(EOFError, OSError):
        while True:
            talk.recv()
            told += 1
            _stop_unless(signals.reach(told))
    _stop_unless(signals.reach(told + 1))


def _stop_unless(stopped: bool) -> None:
    if not stopped:
        os.kill(os.getpid(), signal.SIGTERM)


def _write_to(log: Path) -> None:
    """Write to a file what goes to the screen, from other languages too."""
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - for as long as the process runs
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    for level, name in ((logging.INFO, "note"), (logging.WARNING, "warning")):
        logging.addLevelName(level, name)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)


def _use_threads(threads: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(threads)
