"""A launcher that runs jobs as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.experiments.launcher import MAX_ERROR_LENGTH, Ended, Job, Launcher
from toolkit.utils import processes
from toolkit.utils.errors import RunError, ToolkitError, describe_error
from toolkit.utils.files import lock_directory
from toolkit_plugins.job_storage import RemoteDirectory, create_storage
from toolkit_plugins.ray_cluster import check_cluster, connect  # before ray: it sets what Ray reads at its import

import ray  # isort: skip
from ray.exceptions import RayError, RayTaskError  # isort: skip
from ray.experimental import internal_kv  # isort: skip

_log = logging.getLogger("toolkit")
_CHECK_VALIDITY = 60  # seconds until the checks of `prepare`, which take seconds, are repeated
_LOCK_TIMEOUT = 120  # seconds; an NFS server keeps a dead machine's locks for 90
_MAX_RETRIES = 20  # of one job

RunningJobs = dict[Future[str | None], tuple[Any, Job]]
"""The task reference and the job of each running task."""


class RayLauncher(Launcher):
    """Run jobs on a Ray cluster, each as a task that reserves CPUs.

    When the process or the machine of a job dies, Ray calls the job again on another node, up to 20 times. The job
    resumes from its latest valid snapshot. Every node needs the same packages as this machine, in the same versions.
    A process that is connected to Ray already keeps its connection.

    :param address: address of the cluster: ``auto`` or ``HOST:PORT`` on one of its nodes, ``ray://HOST:10001`` from
        any machine. By default a Ray on this machine starts, and ends with the jobs
    :param cpus_per_run: Ray's CPUs for each job, and the CPU threads of a network that is not small
    :param storage: fsspec URL of a directory that every node and this machine reach, as ``s3://bucket/experiments``.
        Jobs then work in local directories of the nodes, upload these after each snapshot, and this machine downloads
        them when a job has ended. By default jobs work in their directories themselves, which every node has to reach
        under the same path
    """

    def __init__(self, address: str | None = None, cpus_per_run: int = 1, storage: str | None = None) -> None:
        if cpus_per_run < 1:
            raise ValueError(f"cpus_per_run must be at least 1, not {cpus_per_run}")
        self.address = address
        self.cpus_per_run = cpus_per_run
        self.storage = storage
        self._checked_at = -math.inf

    def prepare(self) -> None:
        """Check that jobs could run, without a connection, since an invalid config may still prevent them.

        :raises ToolkitError: if no cluster answers, or the storage cannot be used
        """
        if self.storage is not None:
            create_storage(self.storage)
        if not ray.is_initialized():
            if self.address is not None:
                check_cluster(self.address)
            elif self.cpus_per_run > (n_cores := processes.available_cores()):
                raise ToolkitError(f"cpus_per_run is {self.cpus_per_run}, but this machine has {n_cores} CPU cores")
        self._checked_at = time.monotonic()

    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order, and yield each one when it has ended.

        :raises ToolkitError: if no cluster answers, or the storage cannot be used
        """
        if time.monotonic() - self._checked_at > _CHECK_VALIDITY:
            self.prepare()
        running: RunningJobs = {}
        stop_key = f"sb3-toolkit-stop-{secrets.token_hex(8)}"
        with connect(self.address):
            self._warn_about_cpus()
            try:
                yield from self._run(jobs, running, stop_key)
            finally:
                self._stop(running, stop_key)

    def _run(self, jobs: Sequence[Job], running: RunningJobs, stop_key: str) -> Iterator[Ended]:
        task = ray.remote(_run_task).options(
            num_cpus=self.cpus_per_run, max_retries=_MAX_RETRIES, retry_exceptions=[_StoppedError]
        )
        for job in jobs:
            if error := self._upload(job):
                yield Ended(job, error[:MAX_ERROR_LENGTH])
                continue
            arguments = job.function, job.directory.absolute(), dict(job.arguments)
            reference = task.remote(*arguments, self.storage, self.cpus_per_run, stop_key)
            running[reference.future()] = reference, job
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)  # ray.wait would delay signals other than Ctrl-C
            for future in finished:
                _, job = running.pop(future)
                yield self._get_result(job, future)

    def _warn_about_cpus(self) -> None:
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < self.cpus_per_run:
            message = "cpus_per_run is %d, but no node has more than %g: runs wait for a larger node"
            _log.warning(message, self.cpus_per_run, most)

    def _get_remote(self, job: Job) -> RemoteDirectory | None:
        return None if self.storage is None else RemoteDirectory(self.storage, job.directory)

    def _upload(self, job: Job) -> str | None:
        """Upload the directory of a job if it is further than the storage; return why that failed, or ``None``."""
        try:
            remote = self._get_remote(job)
            if remote and job.directory.exists() and (not remote.exists() or remote.is_behind()):
                remote.upload(job.directory)
        except Exception as error:  # of any storage
            return f"its directory cannot be uploaded to {self.storage}: {describe_error(error)}"
        return None

    def _download(self, job: Job) -> str | None:
        """Download the directory of a job; return why that failed, or ``None``."""
        remote = self._get_remote(job)
        try:
            if remote and remote.exists():
                remote.download()
        except Exception as error:  # of any storage
            return f"its directory stays in {self.storage}: it cannot be downloaded: {describe_error(error)}"
        return None

    def _get_result(self, job: Job, future: Future[str | None]) -> Ended:
        try:
            error = future.result()
        except RayTaskError as task_error:
            error = describe_error(task_error.cause)
        except RayError as ray_error:
            error = f"{type(ray_error).__name__}: {' '.join(str(ray_error).split())}"
        download_error = self._download(job)
        return Ended(job, (error or download_error or "")[:MAX_ERROR_LENGTH] or None)

    def _stop(self, running: Mapping[Future[str | None], tuple[Any, Job]], stop_key: str) -> None:
        """Stop jobs where they can be saved, and wait.

        :param stop_key: key in Ray's store that stops tasks that are about to start. Ray ignores their cancellation
            (its issue 24359), and a second cancellation would stop other jobs before they are saved
        """
        if not running:
            return
        _log.warning("stopping once all runs are saved; a second signal stops them at once")
        with suppress(RayError):  # the head is lost
            internal_kv._internal_kv_put(stop_key, "")
        for reference, _ in running.values():
            ray.cancel(reference)
        wait(running)
        with suppress(RayError):
            internal_kv._internal_kv_del(stop_key)
        for _, job in running.values():
            if error := self._download(job):
                _log.warning("%s: %s", job.name, error)


class _StoppedError(Exception):
    """The machine has stopped a job where it can continue."""


def _run_task(
    function: Callable[..., None],
    directory: Path,
    arguments: dict[str, Any],
    storage: str | None,
    n_cpus: int,
    stop_key: str,
) -> str | None:
    """Call a job in a process of Ray; return why it failed, or ``None``."""
    _set_threads(n_cpus)
    try:
        if internal_kv._internal_kv_exists(stop_key):
            return "was stopped before it began"
        if storage is None:
            _wait_for_lock(directory)
            function(directory, **arguments)
            return None
        with RemoteDirectory(storage, directory).working_copy() as local_directory:
            try:
                function(local_directory, **arguments)
            except Exception as error:
                return describe_error(error).replace(str(local_directory), str(directory))
    except (Exception, SystemExit) as error:
        return describe_error(error)
    except BaseException as error:
        raise _StoppedError from error
    return None


def _set_threads(n_cpus: int) -> None:
    """Use as many threads as Ray reserves CPUs. The toolkit limits small networks to one thread by itself."""
    import torch

    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(n_cpus)


def _wait_for_lock(directory: Path) -> None:
    """Wait until no process works in a directory: a lost machine may still do so when Ray calls its job again."""
    if not directory.exists():
        return
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while time.monotonic() < deadline:
        with suppress(RunError), lock_directory(directory, "works in it"):
            return
        time.sleep(0.2)
