"""Jobs as the tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.experiments.launcher import MAX_ERROR_LENGTH, Ended, Job, Launcher
from toolkit.utils import processes
from toolkit.utils.errors import RunError, ToolkitError, describe_error
from toolkit.utils.files import lock_directory
from toolkit_plugins.parcels import RemoteDirectory, make_storage

# Ray reports how it is used to its makers, and prints what its machines say, unless it is told before its import
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # every line

import ray
from ray.exceptions import RayError, RayTaskError
from ray.experimental import internal_kv

_log = logging.getLogger("toolkit")
_PATIENCE = 20  # seconds for a cluster to answer
_FRESH = 60  # seconds that what was tried is taken to be as it was; trying takes seconds
_LOCKED_AFTER_DEATH = 120  # seconds; an NFS server keeps a dead machine's locks for 90
_RETRIES = 20  # of one job
_TRY = f"""
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level={logging.ERROR})
except Exception as error:
    while error.__cause__:
        error = error.__cause__
    text = str(error).strip()
    sys.exit(text.splitlines()[-1] if "Traceback" in text else " ".join(text.split()))
"""
_OBJECTS = 100 << 20  # bytes for what tasks return, which is hardly anything


class RayLauncher(Launcher):
    """Run jobs on a Ray cluster, each as a task with so many of its CPUs.

    A job whose process or machine is lost is called again elsewhere, by Ray, up to 20 times, and goes on from its last
    snapshot. Every node needs the same packages as this machine, in the same versions. A process that is connected to
    Ray already stays so, and its cluster is taken.

    :param address: of the cluster: ``auto`` for the one that this machine is a node of, ``HOST:PORT`` (on a node of it
        as well), or ``ray://HOST:10001`` from anywhere; by default a Ray of its own on this machine, which ends with
        the jobs
    :param cpus_per_run: Ray's CPUs for each job, and the CPU threads of a network that is not small
    :param storage: URL of a directory that every node and this machine reach, for fsspec (``s3://bucket/experiments``).
        Jobs then work in directories of the nodes' own, which are saved there after each snapshot and brought back
        when a job ends. By default jobs work in their directories themselves, which every node has to have, at the
        same path
    """

    def __init__(self, address: str | None = None, cpus_per_run: int = 1, storage: str | None = None) -> None:
        if cpus_per_run < 1:
            raise ValueError(f"cpus_per_run must be at least 1, not {cpus_per_run}")
        self.address = address
        self.cpus_per_run = cpus_per_run
        self.storage = storage
        self._tried = -math.inf

    def prepare(self) -> None:
        """Try what jobs need; connect to nothing, as what comes next may refuse to launch any.

        :raises ToolkitError: if no cluster answers, or the storage cannot be used
        """
        if self.storage is not None:
            make_storage(self.storage)
        if ray.is_initialized():
            pass
        elif self.address is not None:
            _refuse_silence(self.address)
        elif self.cpus_per_run > processes.available_cores():
            raise ToolkitError(
                f"cpus_per_run is {self.cpus_per_run}, and this machine has {processes.available_cores()}"
            )
        self._tried = time.monotonic()

    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order, and give each when it has ended.

        :raises ToolkitError: if no cluster answers, or the storage cannot be used
        """
        if time.monotonic() - self._tried > _FRESH:
            self.prepare()
        at_work: dict[Future[str | None], tuple[Any, Job]] = {}
        stop = f"sb3-toolkit-stop-{secrets.token_hex(8)}"
        with _connected(self.address):
            self._warn_of_too_few_cpus()
            try:
                yield from self._run(jobs, at_work, stop)
            finally:
                self._stop(at_work, stop)

    def _run(
        self, jobs: Sequence[Job], at_work: dict[Future[str | None], tuple[Any, Job]], stop: str
    ) -> Iterator[Ended]:
        task = ray.remote(_call).options(
            num_cpus=self.cpus_per_run, max_retries=_RETRIES, retry_exceptions=[_StoppedError]
        )
        for job in jobs:
            if unsent := self._send(job):
                yield Ended(job, unsent[:MAX_ERROR_LENGTH])
                continue
            directory = job.directory.absolute()
            ref = task.remote(job.function, directory, dict(job.arguments), self.storage, self.cpus_per_run, stop)
            at_work[ref.future()] = ref, job
        while at_work:
            done, _ = wait(at_work, return_when=FIRST_COMPLETED)  # `ray.wait` lets KeyboardInterrupt alone through
            for future in done:
                _, job = at_work.pop(future)
                yield self._ended(job, future)

    def _warn_of_too_few_cpus(self) -> None:
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < self.cpus_per_run:
            message = "cpus_per_run is %d, and no node has more than %g: runs wait for one that has"
            _log.warning(message, self.cpus_per_run, most)

    def _parcel(self, job: Job) -> RemoteDirectory | None:
        return None if self.storage is None else RemoteDirectory(self.storage, job.directory)

    def _send(self, job: Job) -> str | None:
        """Let nodes have what there is of a job, unless they have as much; return why that failed."""
        try:
            parcel = self._parcel(job)
            if parcel and job.directory.exists() and (not parcel.is_there() or parcel.is_behind()):
                parcel.send(job.directory)
        except Exception as error:  # of any storage
            return f"is not sent to {self.storage}: {describe_error(error)}"
        return None

    def _ended(self, job: Job, future: Future[str | None]) -> Ended:
        try:
            error = future.result()
        except RayTaskError as raised:
            error = describe_error(raised.cause)
        except RayError as raised:
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"
        lost = self._bring_home(job)
        return Ended(job, (error or lost or "")[:MAX_ERROR_LENGTH] or None)

    def _bring_home(self, job: Job) -> str | None:
        """Copy a job's directory back; return why that failed."""
        parcel = self._parcel(job)
        try:
            if parcel and parcel.is_there():
                parcel.download()
        except Exception as error:  # of any storage
            return f"stays in {self.storage}, and is not copied back: {describe_error(error)}"
        return None

    def _stop(self, at_work: Mapping[Future[str | None], tuple[Any, Job]], stop: str) -> None:
        """Have jobs stop where they can be saved, and wait for that.

        :param stop: key in Ray's store for jobs that are just being started: Ray loses what cancels those (its issue
            24359), and to cancel twice would stop others before they are saved
        """
        if not at_work:
            return
        _log.warning("stopping where runs can be saved; once more stops them at once")
        with suppress(RayError):  # of a head that is lost
            internal_kv._internal_kv_put(stop, "")
        for ref, _ in at_work.values():
            ray.cancel(ref)
        wait(at_work)
        with suppress(RayError):
            internal_kv._internal_kv_del(stop)
        for _, job in at_work.values():
            if failed := self._bring_home(job):
                _log.warning("%s: %s", job.name, failed)


class _StoppedError(Exception):
    """A job was stopped where it can go on, by its machine."""


def _call(
    function: Callable[..., None],
    directory: Path,
    arguments: dict[str, Any],
    storage: str | None,
    cpus: int,
    stop: str,
) -> str | None:
    """Call a job, in a process of Ray's; return why it failed."""
    _use_threads(cpus)
    try:
        if internal_kv._internal_kv_exists(stop):
            return "was stopped before it began"
        if storage is None:
            _wait_for_the_dead(directory)
            function(directory, **arguments)
            return None
        with RemoteDirectory(storage, directory).unpacked() as own:
            try:
                function(own, **arguments)
            except Exception as error:
                return describe_error(error).replace(str(own), str(directory))
    except (Exception, SystemExit) as error:
        return describe_error(error)
    except BaseException as error:
        raise _StoppedError from error
    return None


def _use_threads(cpus: int) -> None:
    """Let large networks have the threads that Ray asks for, and small ones the one that the toolkit gives them."""
    import torch

    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(cpus)


def _wait_for_the_dead(directory: Path) -> None:
    """Wait until no process works in a directory: Ray calls a job again while its lost machine may still be at it."""
    if not directory.exists():
        return
    end = time.monotonic() + _LOCKED_AFTER_DEATH
    while time.monotonic() < end:
        with suppress(RunError), lock_directory(directory, "works in it"):
            return
        time.sleep(0.2)


def _refuse_silence(address: str) -> None:
    """Try an address in a process of its own, as Ray tries for a quarter of an hour, and ends the process.

    :raises ToolkitError: if no cluster answers there
    """
    soon = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
    try:
        command = [sys.executable, "-c", _TRY, address]
        tried = subprocess.run(
            command, env=soon | os.environ, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        if not tried.returncode:
            return
        reason = (tried.stderr.splitlines() or [f"Ray ended with status {tried.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"nothing answers within {_PATIENCE} seconds"
    hint = "`ray start --head` starts a cluster and says its address; `ray status --address` tells whether it answers"
    raise ToolkitError(f"there is no Ray cluster at '{address}': {reason}", hint)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to Ray, and end that afterwards, unless this process is connected already.

    :raises ToolkitError: if Ray does not start
    """
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {
            "num_cpus": processes.available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECTS,
        }
    try:
        _connect(address or "local", settings)
        yield
    finally:
        ray.shutdown()


def _connect(address: str, settings: dict[str, Any]) -> None:
    try:
        with _own_sigterm():
            ray.init(address, **settings)
    except Exception as error:  # there are many
        raise ToolkitError(f"Ray does not start: {describe_error(error)}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM, in the place of which Ray puts its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
