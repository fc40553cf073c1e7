"""What a run logs to MLflow and to Weights & Biases, read back from their local files."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from small_runs import StopAt, find_differences
from support import Toolkit, files_in, toolkit_process
from wandb.proto.wandb_internal_pb2 import Record

from toolkit import Run, RunConfig, train
from toolkit.training.trainer import resume
from toolkit.utils.errors import TrainingError

CLOCK = {"time/fps", "time/time_elapsed"}
TIMEOUT = 200  # seconds, for a process on a busy machine
KILL_WANDB = """\
import os

import psutil
from stable_baselines3.common.callbacks import BaseCallback


class KillWandb(BaseCallback):  # as Linux does when it is out of memory
    def _on_step(self):
        if self.num_timesteps == 50:
            for process in psutil.Process(os.getpid()).children():
                process.kill()
                process.wait()
        return True
"""


def make_config(*callbacks: dict[str, Any] | str, **values: Any) -> RunConfig:
    defaults = {
        "name": "tracked",
        "timesteps": 500,
        "env": {"id": "CartPole-v1"},
        "algorithm": {
            "name": "double_dqn",
            "params": {"learning_starts": 50, "buffer_size": 1_000, "batch_size": 16},
            "policy_params": {"net_arch": [16, 16]},
        },
        "callbacks": [{"name": "success", "params": {"threshold": 1e9, "episodes": 5}}, *callbacks],
        "snapshots": {"every_timesteps": 150},
    }
    return RunConfig.model_validate(defaults | values)


def read_progress(run: Run) -> list[tuple[int, dict[str, float]]]:
    """Return the timestep and the numbers of every row of `progress.csv`."""
    rows = csv.DictReader((run.directory / "progress.csv").read_text().splitlines())
    numbers = [{key: float(value) for key, value in row.items() if value} for row in rows]
    return [(int(row["time/total_timesteps"]), row) for row in numbers]


def read_history(run: Run, name: str) -> list[tuple[int, Any]]:
    """Return one column of `progress.csv` with its timesteps."""
    return [(step, pytest.approx(row[name])) for step, row in read_progress(run) if name in row]


def open_mlflow_store(store: Path) -> tuple[Any, list[Any]]:
    """Return a client of a store that a callback has written, and the runs of its experiment `cartpole`."""
    from mlflow import MlflowClient  # after the callback's module: it lets MLflow open stores of files

    client = MlflowClient(store.resolve().as_uri())
    experiment = client.get_experiment_by_name("cartpole")
    assert experiment is not None
    return client, [*client.search_runs([experiment.experiment_id])]


class WandbRun(NamedTuple):
    """What one process logged of a run."""

    id: str
    project: str
    name: str
    config: dict[str, Any]
    history: list[tuple[int, dict[str, float]]]
    summary: dict[str, Any]
    exit_code: int | None


def read_wandb_records(path: Path) -> Iterator[Record]:
    """Read the records of W&B's file, a LevelDB log: blocks of 32 KiB, with long records in pieces."""
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, piece = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if piece in (1, 4):  # a whole record, or its last piece
            yield Record.FromString(record)
            record = b""


def read_wandb_runs(run: Run) -> list[WandbRun]:
    """Read what each process that trained a run logged of it, in their order."""
    return [read_wandb_run(path) for path in sorted(run.directory.glob("wandb/offline-run-*/*.wandb"))]


def read_wandb_run(path: Path) -> WandbRun:
    records = [*read_wandb_records(path)]
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    summary = {update.key: json.loads(update.value_json) for record in records for update in record.summary.update}
    codes = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    return WandbRun(
        begun.run_id,
        begun.project,
        begun.display_name,
        {update.key: json.loads(update.value_json) for update in begun.config.update},
        [(row["_step"], {key: value for key, value in row.items() if not key.startswith("_")}) for row in rows],
        summary,
        codes[0] if codes else None,
    )


def find_wandb_processes(pid: int) -> list[int]:
    """Return the ids of the processes that W&B started for a process."""
    pids = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].endswith("wandb-core") and str(pid) in words:
            pids.append(process.pid)
    return pids


MLFLOW = {"name": "mlflow", "params": {"experiment": "cartpole"}}
WANDB = {"name": "wandb", "params": {"project": "cartpole"}}


def read_metric(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    """Return the logged values of a metric with their timesteps."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


@pytest.fixture(scope="module")
def tracked_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train `runs/first`, which logs to both services."""
    return train(make_config(MLFLOW, WANDB), tmp_path_factory.mktemp("tracked") / "runs" / "first")


def test_mlflow_gets_config_metrics_and_result(tracked_run: Run) -> None:
    client, (logged,) = open_mlflow_store(tracked_run.directory.parent / "mlruns")
    assert logged.info.run_name == "first"
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["status"] == "finished"
    params = logged.data.params
    assert params["algorithm.params.batch_size"] == "16"
    assert params["algorithm.policy_params.net_arch.1"] == "16"
    assert params["callbacks.1.name"] == "mlflow"
    names = {name for _, row in read_progress(tracked_run) for name in row}
    assert len(names) >= 8
    for name in names:
        assert read_metric(client, logged.info.run_id, name) == read_history(tracked_run, name), name
    assert logged.data.metrics["result/timesteps"] == 500
    assert logged.data.metrics["result/success/solved"] == 0
    assert logged.data.metrics.keys() >= names


def test_wandb_gets_config_metrics_and_result_offline(tracked_run: Run) -> None:
    (logged,) = read_wandb_runs(tracked_run)
    assert (logged.project, logged.name, logged.exit_code) == ("cartpole", "first", 0)
    assert logged.config.pop("_wandb") is not None
    assert logged.config == tracked_run.config.to_document().data
    expected = read_progress(tracked_run)
    assert [step for step, _ in logged.history] == [step for step, _ in expected]
    assert [row for _, row in logged.history] == [pytest.approx(row) for _, row in expected]
    assert logged.summary["result/status"] == "finished"
    assert logged.summary["result/timesteps"] == 500
    assert find_wandb_processes(os.getpid()) == []


def test_tracking_does_not_change_training(tracked_run: Run) -> None:
    plain = train(make_config(), Path("plain"))
    assert find_differences(plain.directory, tracked_run.directory) == []


def test_resumed_run_continues_at_both_services(tracked_run: Run) -> None:
    with pytest.raises(TrainingError):
        train(make_config(MLFLOW, WANDB), Path("runs/run"), [StopAt(430)])
    client, (failed,) = open_mlflow_store(Path("runs/mlruns"))
    assert (failed.info.status, failed.data.tags["status"]) == ("FAILED", "failed")
    run = resume(Run.open(Path("runs/run")), [StopAt()])
    assert find_differences(tracked_run.directory, run.directory) == []
    client, (finished,) = open_mlflow_store(Path("runs/mlruns"))
    assert finished.info.run_id == failed.info.run_id
    assert (finished.info.status, finished.data.tags["status"]) == ("FINISHED", "finished")
    for name in {name for _, row in read_progress(run) for name in row} - CLOCK:
        assert read_metric(client, finished.info.run_id, name) == read_history(run, name), name
    first, second = read_wandb_runs(run)
    assert (first.id, first.exit_code) == (second.id, 1)
    assert second.exit_code == 0
    assert first.history[-1][0] < 430
    assert second.history[0][0] > 300, "the second process continues from the snapshot"
    steps = sorted({step for step, _ in first.history + second.history})
    assert steps == [step for step, _ in read_progress(run)]


def test_run_resumed_without_snapshot_continues_at_both_services() -> None:
    config = make_config(MLFLOW, WANDB, timesteps=300, snapshots={"every_timesteps": 10_000})
    with pytest.raises(TrainingError):
        train(config, Path("runs/run"), [StopAt(200)])
    run = resume(Run.open(Path("runs/run")), [StopAt()])
    client, (logged,) = open_mlflow_store(Path("runs/mlruns"))
    name = "rollout/ep_rew_mean"
    assert read_metric(client, logged.info.run_id, name) == read_history(run, name)
    assert len({logged.id for logged in read_wandb_runs(run)}) == 1


def test_interrupted_training_is_logged_and_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    Path("c.yaml").write_text(make_config(MLFLOW, WANDB, timesteps=20_000).to_yaml())
    training = toolkit_process(["train", "c.yaml", "--out", "runs/run", "--quiet"], HOME=str(home))
    try:
        wait_until(lambda: Path("runs/run/progress.csv").exists() or training.poll() is not None)
        assert len(find_wandb_processes(training.pid)) == 1
        training.send_signal(signal.SIGINT)
    finally:
        _, err = training.communicate(timeout=TIMEOUT)
    assert (training.returncode, "Traceback" in err, "wandb" in err) == (130, False, False)
    _, (logged,) = open_mlflow_store(Path("runs/mlruns"))
    assert (logged.info.status, logged.data.tags["status"]) == ("KILLED", "interrupted")
    assert [logged.exit_code for logged in read_wandb_runs(Run.open(Path("runs/run")))] == [130]
    assert find_wandb_processes(training.pid) == []
    assert files_in(home) == set()
    assert not [path for path in Path("runs/run").rglob("*") if path.is_symlink()]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_unwritable_mlflow_store_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    Path("file").touch()
    run = train(make_config({"name": "mlflow", "params": {"tracking_uri": "file/store"}}, timesteps=200), Path("run"))
    assert (run.result or {})["status"] == "finished"
    (message,) = [record.getMessage() for record in caplog.records if record.name == "toolkit"]
    assert message.startswith("mlflow: ")
    assert message.endswith("training continues without it")


def test_training_continues_after_wandb_process_dies() -> None:
    Path("kill_wandb.py").write_text(KILL_WANDB)
    Path("c.yaml").write_text(make_config(WANDB, "./kill_wandb.py:KillWandb", timesteps=200).to_yaml())
    training = toolkit_process(["train", "c.yaml", "--out", "run", "--quiet"])
    _, err = training.communicate(timeout=TIMEOUT)
    assert training.returncode == 0
    assert "wandb: ConnectionResetError" in err
    assert "Traceback" not in err
    assert Run.open(Path("run")).result["status"] == "finished"


def test_default_names_are_the_configs_and_artifacts_are_stored() -> None:
    video = {"name": "record_video", "params": {"at_end": True, "formats": ["gif"], "max_steps": 3}}
    trackers = [{"name": name, "params": {"artifacts": True}} for name in ("mlflow", "wandb")]
    run = train(make_config(video, *trackers, name="cartpole", timesteps=60), Path("runs/run"))
    (video_name,) = files_in(run.videos)
    expected = {"config.yaml", "model.zip", "result.json", f"videos/{video_name}"}
    _, (logged,) = open_mlflow_store(Path("runs/mlruns"))
    assert files_in(Path(logged.info.artifact_uri.removeprefix("file://"))) == expected
    (saved,) = run.directory.glob("wandb/offline-run-*/files")
    assert files_in(saved) >= expected
    assert read_wandb_runs(run)[0].project == "cartpole"


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_missing_package_is_named_with_its_extra(
    package: str, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("c.yaml").write_text(make_config(package).to_yaml())
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"toolkit_plugins.{package}_logger", raising=False)
    finished = toolkit("train", "c.yaml", "--out", "run")
    assert finished.status == 2
    assert f'pip install "sb3-toolkit[{package}]"' in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not Path("run").exists()


def test_concurrent_runs_share_an_mlflow_experiment() -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = [
            *threads.map(lambda number: train(make_config(MLFLOW, timesteps=10), Path(f"runs/{number}")), range(4))
        ]
    assert {tracked.info.run_name for tracked in open_mlflow_store(Path("runs/mlruns"))[1]} == {
        run.directory.name for run in runs
    }
