"""Jobs on a real Ray cluster on this machine: two nodes, and one dies."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import jobs
import psutil
import pytest
from small_runs import StopAt, find_differences, make_config
from support import files_in, toolkit_process, wait_until

from toolkit import Job, Run, RunConfig, train
from toolkit.experiments.launcher import Ended
from toolkit.experiments.runner import run_job
from toolkit.testing import check_launcher
from toolkit.training.trainer import resume
from toolkit.utils.errors import ToolkitError, TrainingError
from toolkit.utils.files import lock_directory

ray_launcher = pytest.importorskip("toolkit_plugins.ray_launcher")
RayLauncher = ray_launcher.RayLauncher
RemoteDirectory = pytest.importorskip("toolkit_plugins.job_storage").RemoteDirectory
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.xdist_group("ray")  # all tests share one cluster

SEEDS = (1, 2)
WAITING_CALLBACK = """\
import os
import time
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback


class Waits(BaseCallback):
    def __init__(self, folder: str, seed: int):
        super().__init__()
        self.folder, self.seed = Path(folder), seed

    def _on_training_start(self):
        threads = f"{torch.get_num_threads()} {os.environ.get('OMP_NUM_THREADS')}"
        with (self.folder / f"{self.seed}.started").open("a") as file:
            file.write(f"{self.num_timesteps} {threads}\\n")

    def _on_step(self):
        if self.num_timesteps == 200 and not (self.folder / "go").exists():
            (self.folder / f"{self.seed}.waits").write_text(str(os.getpid()))
            while not (self.folder / "go").exists():
                time.sleep(0.02)
        return True

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


def find_free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])


class Cluster:
    """A head and another node, with a CPU each.

    :param folder: has a short path, as its sockets need
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_free_port()
        self.nodes: list[psutil.Popen] = []
        self.lost: list[psutil.Process] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def grow(self) -> None:
        """Start nodes until there are two."""
        while len(self.nodes) < 2:
            self._start_node()

    def _start_node(self) -> None:
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={find_free_port()}"]
        head += [f"--temp-dir={self.folder}", "--include-dashboard=false"]
        options = [f"--address={self.address}"] if self.nodes else head
        options += ["--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        log = self.folder / f"{len(self.nodes)}-{len(self.lost)}.log"
        with log.open("w") as file:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
            self.nodes.append(psutil.Popen(command, stdout=file, stderr=file, start_new_session=True))
        wait_until(lambda: "Ray runtime started" in log.read_text())

    def lose_node(self, pids: set[int]) -> None:
        """Kill the node of one of these processes that is not the head."""
        head_pids = {process.pid for process in self.nodes[0].children(recursive=True)}
        (pid,) = pids - head_pids
        parents = {process.pid for process in psutil.Process(pid).parents()}
        node = next(node for node in self.nodes[1:] if node.pid in parents)
        self.nodes.remove(node)
        processes = [node, *node.children(recursive=True)]
        self.lost += processes
        for process in processes:
            kill(process)
        wait_until(lambda: not psutil.pid_exists(pid))

    def stop(self) -> None:
        children = [child for node in self.nodes for child in node.children(recursive=True)]
        for process in [*self.lost, *children, *self.nodes]:
            kill(process)


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray writes a token to the user's home
        cluster = Cluster(folder)
        try:
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder)


@pytest.fixture
def cluster(started_cluster: Cluster) -> Cluster:
    started_cluster.grow()
    return started_cluster


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    """A folder in which jobs wait for the file `go`."""
    folder = tmp_path / "signals"
    folder.mkdir()
    (folder / "waits.py").write_text(WAITING_CALLBACK)
    return folder


@contextmanager
def in_background(function: Callable[[], None], signals: Path) -> Iterator[None]:
    """Call a function in a thread, and let the jobs go at its end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        finally:
            (signals / "go").touch()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not errors


def read_pids(signals: Path) -> set[int]:
    return {int(text) for path in signals.glob("*.waits") if (text := path.read_text())}


def make_run_job(directory: Path, config: RunConfig) -> Job:
    arguments = {"config": config.to_document().data, "evaluation_episodes": 2}
    return Job(directory.name, directory, run_job, arguments)


@pytest.fixture
def importable_jobs() -> Iterator[None]:
    """Send the functions of `jobs` by value: Ray's processes cannot import that module."""
    ray.cloudpickle.register_pickle_by_value(jobs)
    yield
    ray.cloudpickle.unregister_pickle_by_value(jobs)


@pytest.mark.slow
def test_launcher_keeps_its_promises_on_connected_cluster(cluster: Cluster) -> None:
    with ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR):
        check_launcher("ray")


@pytest.mark.slow
def test_job_that_cannot_be_uploaded_fails(cluster: Cluster, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "file").write_bytes(bytes(8 << 20))  # larger than the disk
    launcher = RayLauncher(cluster.address, storage=disk.as_uri())
    (ended,) = launcher.launch([make_run_job(tmp_path / "job", make_config())])
    pattern = rf"its directory cannot be uploaded to {disk.as_uri()}: OSError: .*No space left on device"
    assert re.match(pattern, ended.error or "")
    assert files_in(disk) == set()


@pytest.mark.slow
def test_run_of_lost_node_resumes_exactly_from_storage(
    cluster: Cluster, signals: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    configs = {}
    for seed in SEEDS:
        callback = {"name": f"{signals}/waits.py:Waits", "params": {"folder": str(signals), "seed": seed}}
        configs[seed] = make_config(seed=seed, timesteps=320, callbacks=[callback])
    run_jobs = [make_run_job(tmp_path / "runs" / str(seed), config) for seed, config in configs.items()]
    failing = make_run_job(tmp_path / "runs" / "failing", make_config(env={"id": "NoSuch-v0"}))
    ended, monitor = end_locally_after_upload(storage, tmp_path / "runs" / "ended")

    def lose_node() -> None:
        wait_until(lambda: len(read_pids(signals)) == 2 and len(files_in(storage)) == 3)
        cluster.lose_node(read_pids(signals))

    launcher = RayLauncher(cluster.address, storage=storage.as_uri())
    with in_background(lose_node, signals):
        errors = {result.job.name: result.error for result in launcher.launch([*run_jobs, failing, ended])}
    assert "NoSuch" in (errors.pop("failing") or "")
    assert errors == {"1": None, "2": None, "ended": None}
    assert capfd.readouterr() == ("", "")
    started = sorted((signals / f"{seed}.started").read_text().splitlines() for seed in SEEDS)
    assert started == [["0 1 None"], ["0 1 None", "150 1 None"]], "one thread each; one run resumes from its snapshot"
    assert files_in(storage) == set()
    assert (ended.directory / "monitor.csv").read_bytes() == monitor, "with the same times: nothing is trained again"
    for job in run_jobs:
        uninterrupted = tmp_path / "uninterrupted" / job.name
        run_job(uninterrupted, **job.arguments)
        assert find_differences(job.directory, uninterrupted) == []
        assert files_in(job.directory / "snapshots") == files_in(uninterrupted / "snapshots")
        assert (job.directory / "evaluation.json").exists()


def end_locally_after_upload(storage: Path, directory: Path) -> tuple[Job, bytes]:
    """Upload an interrupted run, and then end it locally; return its job, and its monitor.csv."""
    config = make_config(timesteps=200)
    job = make_run_job(directory, config)
    with pytest.raises(TrainingError):
        train(config, directory, [StopAt(170)])
    RemoteDirectory(storage.as_uri(), directory).upload(directory)
    resume(Run.open(directory), [StopAt()])
    run_job(directory, **job.arguments)
    return job, (directory / "monitor.csv").read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves_runs_and_stops_own_ray(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(make_config(timesteps=1_000_000, params={"compile": False}).to_yaml())
    (tmp_path / "experiment.yaml").write_text("base: base.yaml\nseeds: [3]\nlauncher: ray\n")
    out = tmp_path / "out"
    command = ["experiment", tmp_path / "experiment.yaml", "--out", out, "--quiet"]
    with toolkit_process(command, session=True, RAY_AUTH_MODE="disabled") as process:
        try:
            wait_until(lambda: [*out.glob("*/*/snapshots/150")])
            children = {child: child.name() for child in psutil.Process(process.pid).children(recursive=True)}
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, stdout.strip()) == (130, str(out))
    assert stderr.strip() == "warning: stopping once all runs are saved; a second signal stops them at once"
    (run,) = (path.parent for path in out.glob("*/*/result.json"))
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert (run / "snapshots" / str(result["timesteps"])).is_dir()
    assert {"raylet", "gcs_server"} <= {*children.values()}
    wait_until(lambda: not any(child.is_running() for child in children))


@pytest.fixture
def slow_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray whose processes receive each task a second late, and its cancellation at once."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    delay = "CoreWorkerService.grpc_server.PushTask.HandleRequestImpl=1000000:1000000"
    monkeypatch.setenv("RAY_testing_asio_delay_us", delay)
    with ray.init("local", num_cpus=1, log_to_driver=False, logging_level=logging.ERROR):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("slow_ray", "importable_jobs")
def test_job_that_is_about_to_start_does_not_begin_after_stop(tmp_path: Path) -> None:
    first, second = (Job(name, tmp_path / name, jobs.write, {"text": name}) for name in ("first", "second"))
    launched = RayLauncher().launch([first, second])
    assert next(launched) == Ended(first, None)
    launched.close()
    assert files_in(tmp_path) == {"first/text"}


def test_job_waits_for_lock_of_lost_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launcher.internal_kv, "_internal_kv_exists", lambda key: False)
    monkeypatch.setattr(ray_launcher, "_set_threads", lambda n_cpus: None)
    directory = tmp_path / "job"
    directory.mkdir()
    arguments = (write_file, directory, {"name": "file"}, None, 1, "key")
    with ThreadPoolExecutor() as pool:
        with lock_directory(directory, "works in it"):  # a lost machine may hold it for a while
            error = pool.submit(ray_launcher._run_task, *arguments)
            time.sleep(0.5)
            assert files_in(directory) == set()
        assert error.result() is None
    assert files_in(directory) == {"file"}


def write_file(directory: Path, name: str) -> None:
    (directory / name).touch()


def test_address_without_cluster_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcs_rpc_server_connect_timeout_s", "py_gcs_connect_timeout_s"):
        monkeypatch.setenv(f"RAY_{name}", "1")  # not 5
    address = f"127.0.0.1:{find_free_port()}"
    with pytest.raises(ToolkitError, match=f"no Ray cluster answers at '{address}': .*[Tt]imed out") as raised:
        RayLauncher(address).prepare()
    assert len(raised.value.message) < 300


def test_prepare_does_not_connect() -> None:
    RayLauncher().prepare()
    assert not ray.is_initialized()


def test_more_cpus_than_machine_has_are_refused() -> None:
    with pytest.raises(ToolkitError, match=r"cpus_per_run is 4096, but this machine has \d+ CPU cores$"):
        RayLauncher(cpus_per_run=4096).prepare()
    with pytest.raises(ValueError, match="cpus_per_run must be at least 1, not 0"):
        RayLauncher(cpus_per_run=0)
