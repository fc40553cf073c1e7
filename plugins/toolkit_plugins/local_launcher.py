"""A launcher that runs jobs in processes of this machine."""

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
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from toolkit.experiments.launcher import MAX_ERROR_LENGTH, Ended, Job, Launcher
from toolkit.utils import processes
from toolkit.utils.errors import ToolkitError, describe_error
from toolkit.utils.log import configure_logging

_PRELOADED = ("toolkit.experiments.preload",)
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGNAL_GRACE = 0.5  # seconds
_MAIN_GUARD_HINT = "put the training of the script under `if __name__ == '__main__':`"


class LocalLauncher(Launcher):
    """Run jobs on this machine, each in its own process.

    The processes share the CPU cores: torch uses as many threads in each as it has cores. What a job prints, and its
    warnings, go to ``log-<directory>.txt`` beside its directory. When the parent process dies, its jobs stop as by
    ``SIGTERM``.

    :param workers: number of jobs that run at once, at least 1; by default the number of CPU cores
    """

    is_local = True

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError("workers should be at least 1")
        n_cores = processes.available_cores()
        self._n_workers = n_cores if workers is None else workers
        self._n_threads = max(1, n_cores // self._n_workers)

    def prepare(self) -> None:
        """Start the fork server, which imports what jobs need in the background.

        :raises ToolkitError: if other processes cannot import the main script
        """
        _check_main_script()
        self._context = context = processes.start_context([*_PRELOADED, *self.slow_imports])
        if context.get_start_method() == "forkserver":
            from multiprocessing import forkserver

            try:
                with processes.block_signals(*_STOP_SIGNALS):
                    forkserver.ensure_running()
            except RuntimeError:  # raised in the process of a job, which imports an unguarded script
                sys.exit(_MAIN_GUARD_HINT)

    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order, and yield each one when it has ended.

        :raises ToolkitError: if other processes cannot import the main script
        """
        self.prepare()
        running: dict[int, _JobProcess] = {}
        try:
            for job in jobs:
                while len(running) >= self._n_workers:
                    yield from _wait_for_ends(running)
                with processes.block_signals(*_STOP_SIGNALS):  # else a job could start and never be stopped
                    job_process = _JobProcess.start(self._context, job, self._n_threads)
                    running[job_process.process.sentinel] = job_process
            while running:
                yield from _wait_for_ends(running)
        finally:
            _stop_all(running)


def _check_main_script() -> None:
    """Refuse a script without a file, as in `python < script.py`: multiprocessing imports it in each process."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if main.__spec__ is None and file is not None and not os.path.exists(file):
        raise ToolkitError(f"{file}: this script has no file, and other processes cannot import it", "save it first")


def _wait_for_ends(running: dict[int, _JobProcess]) -> Iterator[Ended]:
    """Wait until at least one job has ended; remove and yield those that have."""
    for sentinel in {*running} & {*wait([*running])}:
        yield running.pop(sentinel).get_result()


def _stop_all(running: dict[int, _JobProcess]) -> None:
    """Stop jobs where they can be saved, and wait. Another signal stops them at once, and a third one kills them."""
    if not running:
        return
    logging.getLogger("toolkit").warning("stopping once all runs are saved; a second signal stops them at once")
    try:
        _terminate_all(running)
    except BaseException:
        try:
            _terminate_all(running)
        except BaseException:
            for job_process in running.values():
                job_process.process.kill()
            raise
        raise


def _terminate_all(running: dict[int, _JobProcess]) -> None:
    for job_process in running.values():
        with suppress(OSError):  # it has ended
            job_process.connection.send(None)
    for job_process in running.values():
        job_process.process.join()
        job_process.remove_empty_log()


@dataclass
class _JobProcess:
    """A job in its process.

    :param connection: sends stop requests to the process, and receives why the job failed
    """

    job: Job
    process: BaseProcess
    connection: Connection
    log: Path

    @classmethod
    def start(cls, context: BaseContext, job: Job, n_threads: int) -> _JobProcess:
        connection, child_connection = context.Pipe()
        log = job.directory.parent / f"log-{job.directory.name}.txt"
        arguments = (job, log, child_connection, n_threads)
        process = context.Process(target=_run_process, args=arguments)  # type: ignore[attr-defined]
        process.start()
        child_connection.close()
        return cls(job, process, connection, log)

    def get_result(self) -> Ended:
        """Return how the job has ended.

        :raises ToolkitError: if its process did not reach the job, since other processes would not either
        """
        self.process.join()
        has_begun = self.log.exists()
        self.remove_empty_log()
        with suppress(EOFError, OSError):
            if self.connection.poll():
                return Ended(self.job, self.connection.recv())
        code = self.process.exitcode or 0
        error = f"its process {processes.describe_exit(code)}"
        if code == -getattr(signal, "SIGKILL", 0):
            error += ", perhaps because memory ran out"
        elif code > 0 and not has_begun:
            raise ToolkitError(f"{self.job.name}: {error} before the job began", _MAIN_GUARD_HINT)
        return Ended(self.job, error)

    def remove_empty_log(self) -> None:
        with suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()


def _run_process(job: Job, log: Path, connection: Connection, n_threads: int) -> None:
    """Run a job in this process."""
    _leave_terminal_group()
    if hasattr(os, "setpgid"):  # on Windows Ctrl-C reaches all processes, and no other signal can be handled
        threading.Thread(target=_watch_parent, args=(connection, _SignalCounter()), daemon=True).start()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        _redirect_output(log)
    except OSError as error:
        connection.send(describe_error(error)[:MAX_ERROR_LENGTH])
    else:
        connection.send(_call_job(job, n_threads))


def _call_job(job: Job, n_threads: int) -> str | None:
    """Call a job; return why it failed, or ``None``."""
    try:
        _limit_threads(n_threads)
        job.function(job.directory, **job.arguments)
    except KeyboardInterrupt:
        return "was stopped"
    except (Exception, SystemExit) as error:
        with suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return describe_error(error)[:MAX_ERROR_LENGTH]
    return None


def _leave_terminal_group() -> None:
    """Leave the process group that gets the terminal's signals: the parent passes its own signal on."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {getattr(signal, name) for name in _STOP_SIGNALS})


class _SignalCounter:
    """Counts the signals that this process gets from any sender."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._count = 0

    def wait_for(self, count: int) -> bool:
        """Wait briefly until there have been ``count`` signals; return whether there have."""
        while self._count < count and wait([self._reader], timeout=_SIGNAL_GRACE):
            self._count += len(os.read(self._reader, 1))
        return self._count >= count


def _watch_parent(connection: Connection, signals: _SignalCounter) -> None:
    """Stop this process when the parent requests it, and when the parent has died.

    A batch system such as Slurm signals all processes of a job. This one has then got its signal already, and a second
    one would stop it at once, without saving.
    """
    n_requests = 0
    with suppress(EOFError, OSError):
        while True:
            connection.recv()
            n_requests += 1
            _terminate_unless(signals.wait_for(n_requests))
    _terminate_unless(signals.wait_for(n_requests + 1))


def _terminate_unless(is_stopped: bool) -> None:
    if not is_stopped:
        os.kill(os.getpid(), signal.SIGTERM)


def _redirect_output(log: Path) -> None:
    """Append stdout, stderr and warnings to a file, also those of libraries in C."""
    with log.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - open as long as the process runs
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    configure_logging(force=True)


def _limit_threads(n_threads: int) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(n_threads)
