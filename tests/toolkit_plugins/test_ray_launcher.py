"""Runs on a real Ray cluster of two nodes on this machine, and the loss of one node."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jobs
import psutil
import pytest
from small_runs import StopAt, find_differences, make_config
from support import files_in, toolkit_process

from toolkit import Job, Run, RunConfig, train
from toolkit.experiments.launcher import Ended
from toolkit.experiments.runner import run_job
from toolkit.testing import check_launcher
from toolkit.training.trainer import resume
from toolkit.utils.errors import ToolkitError, TrainingError
from toolkit.utils.files import lock_directory

RayLauncher = pytest.importorskip("toolkit_plugins.ray_launcher").RayLauncher
RemoteDirectory = pytest.importorskip("toolkit_plugins.job_storage").RemoteDirectory
ray = pytest.importorskip("ray")
PATIENCE = 120  # seconds, for processes on a machine that has much else to do
SEEDS = (1, 2)
WAITS = """\
import os
import time
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback


class Waits(BaseCallback):
    def __init__(self, directory: str, seed: int):
        super().__init__()
        self.directory, self.seed = Path(directory), seed

    def _on_training_start(self):
        threads = f"{torch.get_num_threads()} {os.environ.get('OMP_NUM_THREADS')}"
        with (self.directory / f"{self.seed}.started").open("a") as file:
            file.write(f"{self.num_timesteps} {threads}\\n")

    def _on_step(self):
        if self.num_timesteps == 430 and not (self.directory / "go").exists():
            (self.directory / f"{self.seed}.waits").write_text(str(os.getpid()))
            while not (self.directory / "go").exists():
                time.sleep(0.02)
        return True

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass
"""


def wait_until(happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (value := happened()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])


class Cluster:
    """A Ray cluster of a head node and one other node, with one CPU each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory  # short, as sockets are in it
        self.port = free_port()
        self.nodes: list[psutil.Popen] = []
        self.lost: list[psutil.Process] = []

    def grow(self) -> None:
        """Start nodes until there are two."""
        while len(self.nodes) < 2:
            self.add_node()

    def add_node(self) -> None:
        """Start the head node first, then other nodes."""
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}"]
        head += [f"--temp-dir={self.directory}", "--include-dashboard=false"]
        arguments = [f"--address=127.0.0.1:{self.port}"] if self.nodes else head
        small = ["--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        log = self.directory / f"{len(self.nodes)}-{len(self.lost)}.log"
        with log.open("w") as file:
            command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *arguments, *small]
            self.nodes.append(psutil.Popen(command, stdout=file, stderr=file, start_new_session=True))
        wait_until(lambda: "Ray runtime started" in log.read_text())

    def lose(self, pid: int, all_at_once: bool) -> None:
        """Kill the node that runs a process: all its processes, or its raylet, after which the others end."""
        parents = {process.pid for process in psutil.Process(pid).parents()}
        node = next(node for node in self.nodes[1:] if node.pid in parents)
        self.nodes.remove(node)
        processes = [node, *node.children(recursive=True)]
        self.lost += processes
        for process in processes if all_at_once else [process for process in processes if process.name() == "raylet"]:
            end(process)

    def end(self) -> None:
        """Kill all processes of the cluster."""
        for process in [
            *self.lost,
            *(child for node in self.nodes for child in node.children(recursive=True)),
            *self.nodes,
        ]:
            end(process)


def end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is left in the user's home
        started = Cluster(directory)
        try:
            yield started
        finally:
            started.end()
            shutil.rmtree(directory)


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """A directory with a callback that waits until the directory has a file `go`."""
    directory = tmp_path / "waits"
    directory.mkdir()
    (directory / "waits.py").write_text(WAITS)
    return directory


def make_waiting_config(directory: Path, seed: int, **more: Any) -> RunConfig:
    callback = {"name": f"{directory}/waits.py:Waits", "params": {"directory": str(directory), "seed": seed}}
    return make_config(seed=seed, callbacks=[callback], **more)


def make_job(directory: Path, config: RunConfig) -> Job:
    arguments = {"config": config.to_document().data, "evaluation_episodes": 2}
    return Job(directory.name, directory, run_job, arguments)


@pytest.mark.slow
def test_launcher_passes_conformance_check(cluster: Cluster) -> None:
    cluster.grow()
    with ray.init(f"127.0.0.1:{cluster.port}", log_to_driver=False, logging_level=logging.ERROR):
        check_launcher("ray")  # on the cluster that this process is connected to


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["the directory itself", "storage"])
def test_runs_of_lost_node_resume_identically_on_another_node(
    cluster: Cluster, waits: Path, tmp_path: Path, shared: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.grow()
    storage = tmp_path / "storage"
    launcher = RayLauncher(f"127.0.0.1:{cluster.port}", storage=None if shared else storage.as_uri())

    def lose_a_node() -> None:
        try:
            wait_until(lambda: [*waits.glob("*.waits")])
            time.sleep(1)
            busy.close()
            wait_until(lambda: len([*waits.glob("*.waits")]) == 2 and (shared or len(files_in(storage)) == 2))
            on_head = {process.pid for process in cluster.nodes[0].children(recursive=True)}
            (pid,) = {int(path.read_text()) for path in waits.glob("*.waits")} - on_head
            cluster.lose(pid, all_at_once=not shared)
            wait_until(lambda: not psutil.pid_exists(pid))
        finally:
            (waits / "go").touch()

    runs = {seed: make_waiting_config(waits, seed) for seed in SEEDS}
    jobs = [make_job(tmp_path / "runs" / str(seed), run) for seed, run in runs.items()]
    failing = make_job(tmp_path / "runs" / "failing", make_config(env={"id": "NoSuch-v0"}))
    with ThreadPoolExecutor() as pool, ExitStack() as busy:
        if shared:  # a lost machine may be at work in it for a while
            jobs[0].directory.mkdir(parents=True)
            busy.enter_context(lock_directory(jobs[0].directory, "works in it"))
        lost = pool.submit(lose_a_node)
        errors = {ended.job.name: ended.error for ended in launcher.launch([*jobs, failing])}
        lost.result()
    assert "NoSuch" in (errors.pop("failing") or "")
    assert errors == {"1": None, "2": None}
    assert capfd.readouterr() == ("", "")
    started = sorted((waits / f"{seed}.started").read_text().splitlines() for seed in SEEDS)
    assert started == [["0 1 None"], ["0 1 None", "300 1 None"]], "one thread each, and one resumes from a snapshot"
    assert files_in(storage) == set()
    for job, run in zip(jobs, runs.values(), strict=True):
        run_job(tmp_path / "plain" / job.name, **make_job(tmp_path, run).arguments)
        assert find_differences(job.directory, tmp_path / "plain" / job.name) == []
        assert files_in(job.directory / "snapshots") == files_in(tmp_path / "plain" / job.name / "snapshots")
        assert (job.directory / "evaluation.json").exists()


@pytest.mark.slow
def test_job_fails_if_upload_to_storage_fails(cluster: Cluster, disk: Path, tmp_path: Path) -> None:
    cluster.grow()
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "file").write_bytes(bytes(8 << 20))  # more than the disk has room for
    launcher = RayLauncher(f"127.0.0.1:{cluster.port}", storage=disk.as_uri())
    (ended,) = launcher.launch([make_job(tmp_path / "job", make_config())])
    assert re.match(
        rf"its directory cannot be uploaded to {disk.as_uri()}: OSError: .*No space left on device", ended.error or ""
    )
    assert files_in(disk) == set()


@pytest.mark.slow
def test_stale_upload_does_not_replace_finished_run(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow()
    storage, job = (tmp_path / "storage").as_uri(), make_job(tmp_path / "job", make_config())
    with pytest.raises(TrainingError):
        train(make_config(), job.directory, [StopAt(430)])
    RemoteDirectory(storage, job.directory).upload(job.directory)
    resume(Run.open(job.directory), [StopAt()])
    run_job(job.directory, **job.arguments)
    monitor = (job.directory / "monitor.csv").read_bytes()
    (ended,) = RayLauncher(f"127.0.0.1:{cluster.port}", storage=storage).launch([job])
    assert ended.error is None
    assert (job.directory / "monitor.csv").read_bytes() == monitor, "times too: nothing was trained again"
    assert files_in(tmp_path / "storage") == set()


@pytest.mark.slow
def test_ctrl_c_saves_runs_and_ends_own_ray_processes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(make_config(timesteps=1_000_000, params={"compile": False}).to_yaml())
    (tmp_path / "experiment.yaml").write_text("base: base.yaml\nseeds: [3]\nlauncher: ray\n")
    out = tmp_path / "out"
    command = ["experiment", tmp_path / "experiment.yaml", "--out", out, "--quiet"]
    with toolkit_process(command, session=True, RAY_AUTH_MODE="disabled") as process:
        try:
            run = wait_until(lambda: [snapshot.parents[1] for snapshot in out.glob("*/*/snapshots/150")])[0]
            names = {child: child.name() for child in psutil.Process(process.pid).children(recursive=True)}
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, printed.strip()) == (130, str(out))
    assert errors.strip() == "warning: stopping once all runs are saved; a second signal stops them at once"
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert (run / "snapshots" / str(result["timesteps"])).is_dir()
    assert {"raylet", "gcs_server"} <= {*names.values()}
    wait_until(lambda: not any(process.is_running() for process in names))


@pytest.fixture
def slow_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local Ray that delays each task by a second, but cancels at once."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    late = "CoreWorkerService.grpc_server.PushTask.HandleRequestImpl=1000000:1000000"
    monkeypatch.setenv("RAY_testing_asio_delay_us", late)
    ray.cloudpickle.register_pickle_by_value(jobs)  # which Ray's processes cannot import
    with ray.init("local", num_cpus=1, log_to_driver=False, logging_level=logging.ERROR):
        yield
    ray.cloudpickle.unregister_pickle_by_value(jobs)


@pytest.mark.slow
@pytest.mark.usefixtures("slow_ray")
def test_closing_launcher_cancels_job_that_is_starting(tmp_path: Path) -> None:
    first, second = (Job(name, tmp_path / name, jobs.write, {"text": name}) for name in ("first", "second"))
    launched = RayLauncher().launch([first, second])
    assert next(launched) == Ended(first, None)
    launched.close()
    assert files_in(tmp_path) == {"first/text"}


def test_unreachable_address_is_refused_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcs_rpc_server_connect_timeout_s", "py_gcs_connect_timeout_s"):
        monkeypatch.setenv(f"RAY_{name}", "1")  # rather than 5
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ToolkitError, match=f"no Ray cluster answers at '{address}': .*[Tt]imed out") as raised:
        RayLauncher(address).prepare()
    assert len(raised.value.message) < 300


def test_prepare_does_not_connect_to_ray() -> None:
    RayLauncher().prepare()
    assert not ray.is_initialized()


def test_more_cpus_than_machine_has_are_refused() -> None:
    with pytest.raises(ToolkitError, match=r"cpus_per_run is 4096, but this machine has \d+ CPU cores"):
        RayLauncher(cpus_per_run=4096).prepare()
    with pytest.raises(ValueError, match="cpus_per_run must be at least 1, not 0"):
        RayLauncher(cpus_per_run=0)
