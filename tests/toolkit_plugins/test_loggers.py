"""What a run leaves in MLflow and in Weights & Biases, read back from their stores on this machine."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from support import PROJECT, files_in, toolkit_process
from trained import StopAt
from wandb.proto.wandb_internal_pb2 import Record

from toolkit import Run, RunConfig, train
from toolkit.training.trainer import resume
from toolkit.utils.errors import TrainingError
from toolkit_plugins.mlflow_logger import MlflowClient  # told to open stores of files

CLOCK = {"time/fps", "time/time_elapsed"}
PATIENCE = 200  # seconds, for a process on a machine that has much else to do
ENDS_WANDB = """\
import os

import psutil
from stable_baselines3.common.callbacks import BaseCallback


class EndsWandb(BaseCallback):  # as a machine short of memory does
    def _on_step(self):
        if self.num_timesteps == 50:
            for process in psutil.Process(os.getpid()).children():
                process.kill()
                process.wait()
        return True
"""


def config(*callbacks: dict[str, Any] | str, **more: Any) -> RunConfig:
    parts = {
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
    return RunConfig.model_validate(parts | more)


def progress(run: Run) -> list[tuple[int, dict[str, float]]]:
    """Return the timestep and the numbers of every row of `progress.csv`."""
    rows = csv.DictReader((run.directory / "progress.csv").read_text().splitlines())
    numbers = [{key: float(value) for key, value in row.items() if value} for row in rows]
    return [(int(row["time/total_timesteps"]), row) for row in numbers]


def history(run: Run, name: str) -> list[tuple[int, Any]]:
    """Return one column of `progress.csv` with its timesteps."""
    return [(step, pytest.approx(row[name])) for step, row in progress(run) if name in row]


def mlflow_store(store: Path) -> tuple[MlflowClient, list[Any]]:
    """Return a client of a store, and its runs of the experiment `cartpole`."""
    client = MlflowClient(store.resolve().as_uri())
    experiment = client.get_experiment_by_name("cartpole")
    assert experiment is not None
    return client, [*client.search_runs([experiment.experiment_id])]


class WandbRun(NamedTuple):
    """What one process wrote of a run."""

    id: str
    project: str
    name: str
    config: dict[str, Any]
    history: list[tuple[int, dict[str, float]]]
    summary: dict[str, Any]
    exit_code: int | None


def wandb_records(path: Path) -> Iterator[Record]:
    """Read the records of W&B's file, a log of LevelDB: blocks of 32 KiB, with records in pieces if need be."""
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, piece = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if piece in (1, 4):  # the whole of a record, or its last piece
            yield Record.FromString(record)
            record = b""


def wandb_runs(run: Run) -> list[WandbRun]:
    """Return what each process that trained a run wrote of it, in their order."""
    return [wandb_run(path) for path in sorted(run.directory.glob("wandb/offline-run-*/*.wandb"))]


def wandb_run(path: Path) -> WandbRun:
    records = [*wandb_records(path)]
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


def wandb_processes(pid: int) -> list[int]:
    """Return the processes that W&B started for a process."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].endswith("wandb-core") and str(pid) in words:
            found.append(process.pid)
    return found


@pytest.fixture
def differences(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], list[str]]:
    """Name what differs between two runs' results, as the script that kills training does."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    return runpy.run_path(str(PROJECT / "benchmarks" / "comparison.py"))["list_differences"]


MLFLOW = {"name": "mlflow", "params": {"experiment": "cartpole"}}
WANDB = {"name": "wandb", "params": {"project": "cartpole"}}


def test_mlflow_has_the_config_every_number_by_timestep_and_the_result() -> None:
    run = train(config(MLFLOW), Path("runs/first"))
    client, (tracked,) = mlflow_store(Path("runs/mlruns"))
    assert tracked.info.run_name == "first"
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["status"] == "finished"
    params = tracked.data.params
    assert params["algorithm.params.batch_size"] == "16"
    assert params["algorithm.policy_params.net_arch.1"] == "16"
    assert params["callbacks.1.name"] == "mlflow"
    names = {name for _, row in progress(run) for name in row}
    assert len(names) >= 8
    for name in names:
        logged = [(one.step, one.value) for one in client.get_metric_history(tracked.info.run_id, name)]
        assert logged == history(run, name), name
    assert tracked.data.metrics["result/timesteps"] == 500
    assert tracked.data.metrics["result/success/solved"] == 0
    assert tracked.data.metrics.keys() >= names


def test_wandb_has_the_config_every_number_by_timestep_and_the_result_offline() -> None:
    run = train(config(WANDB), Path("runs/first"))
    (tracked,) = wandb_runs(run)
    assert (tracked.project, tracked.name, tracked.exit_code) == ("cartpole", "first", 0)
    assert tracked.config.pop("_wandb") is not None
    assert tracked.config == run.config.to_document().data
    expected = progress(run)
    assert [step for step, _ in tracked.history] == [step for step, _ in expected]
    assert [row for _, row in tracked.history] == [pytest.approx(row) for _, row in expected]
    assert tracked.summary["result/status"] == "finished"
    assert tracked.summary["result/timesteps"] == 500
    assert wandb_processes(os.getpid()) == []


def test_by_default_a_run_is_tracked_under_the_name_of_its_config() -> None:
    run = train(config("mlflow", "wandb", timesteps=60), Path("runs/first"))
    client = MlflowClient(Path("runs/mlruns").resolve().as_uri())
    assert client.get_experiment_by_name("tracked") is not None
    assert wandb_runs(run)[0].project == "tracked"


def test_training_is_the_same_with_and_without_tracking(differences: Callable[[Path, Path], list[str]]) -> None:
    train(config(), Path("plain"))
    train(config(MLFLOW, WANDB), Path("tracked"))
    assert differences(Path("plain"), Path("tracked")) == []


def test_a_resumed_run_goes_on_in_the_same_place(differences: Callable[[Path, Path], list[str]]) -> None:
    train(config(MLFLOW, WANDB), Path("whole/run"), [StopAt()])
    with pytest.raises(TrainingError):
        train(config(MLFLOW, WANDB), Path("runs/run"), [StopAt(430)])
    client, (broken,) = mlflow_store(Path("runs/mlruns"))
    assert (broken.info.status, broken.data.tags["status"]) == ("FAILED", "failed")
    run = resume(Run.open(Path("runs/run")), [StopAt()])
    assert differences(Path("whole/run"), Path("runs/run")) == []
    client, (tracked,) = mlflow_store(Path("runs/mlruns"))
    assert tracked.info.run_id == broken.info.run_id
    assert (tracked.info.status, tracked.data.tags["status"]) == ("FINISHED", "finished")
    for name in {name for _, row in progress(run) for name in row} - CLOCK:
        logged = [(one.step, one.value) for one in client.get_metric_history(tracked.info.run_id, name)]
        assert logged == history(run, name), name
    first, second = wandb_runs(run)
    assert (first.id, first.exit_code) == (second.id, 1)
    assert second.exit_code == 0
    assert first.history[-1][0] < 430
    assert second.history[0][0] > 300, "it goes on from the snapshot, not from the beginning"
    steps = sorted({step for step, _ in first.history + second.history})
    assert steps == [step for step, _ in progress(run)]


def test_a_run_that_is_resumed_without_a_snapshot_is_tracked_in_the_same_place_too() -> None:
    parts = config(MLFLOW, WANDB, snapshots={"every_timesteps": 10_000})
    with pytest.raises(TrainingError):
        train(parts, Path("runs/run"), [StopAt(200)])
    run = resume(Run.open(Path("runs/run")), [StopAt()])
    client, (tracked,) = mlflow_store(Path("runs/mlruns"))
    name = "rollout/ep_rew_mean"
    logged = [(one.step, one.value) for one in client.get_metric_history(tracked.info.run_id, name)]
    assert logged == history(run, name)
    assert len({one.id for one in wandb_runs(run)}) == 1


def test_an_interrupted_training_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    Path("c.yaml").write_text(config(MLFLOW, WANDB, timesteps=20_000).to_yaml())
    training = toolkit_process(["train", "c.yaml", "--out", "runs/run", "--quiet"], HOME=str(home))
    try:
        wait_for(lambda: Path("runs/run/progress.csv").exists() or training.poll() is not None)
        assert len(wandb_processes(training.pid)) == 1
        training.send_signal(signal.SIGINT)
    finally:
        _, err = training.communicate(timeout=PATIENCE)
    assert (training.returncode, "Traceback" in err, "wandb" in err) == (130, False, False)
    _, (tracked,) = mlflow_store(Path("runs/mlruns"))
    assert (tracked.info.status, tracked.data.tags["status"]) == ("KILLED", "interrupted")
    assert [one.exit_code for one in wandb_runs(Run.open(Path("runs/run")))] == [130]
    assert wandb_processes(training.pid) == []
    assert files_in(home) == set()
    assert not [path for path in Path("runs/run").rglob("*") if path.is_symlink()]


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_store_that_cannot_be_written_to_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    Path("file").touch()
    run = train(config({"name": "mlflow", "params": {"tracking_uri": "file/store"}}, timesteps=200), Path("run"))
    assert (run.result or {})["status"] == "finished"
    (message,) = [record.getMessage() for record in caplog.records if record.name == "toolkit"]
    assert message.startswith("mlflow: ")
    assert message.endswith("training continues without it")


def test_training_outlives_wandb() -> None:
    Path("ends.py").write_text(ENDS_WANDB)
    Path("c.yaml").write_text(config(WANDB, "./ends.py:EndsWandb", timesteps=200).to_yaml())
    training = toolkit_process(["train", "c.yaml", "--out", "run", "--quiet"])
    _, err = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0
    assert "wandb: ConnectionResetError" in err
    assert "Traceback" not in err
    assert Run.open(Path("run")).result["status"] == "finished"


def test_artifacts_are_the_model_and_what_belongs_to_it_if_they_are_asked_for() -> None:
    video = {"name": "record_video", "params": {"at_end": True, "formats": ["gif"], "max_steps": 3}}
    trackers = [{"name": name, "params": {"artifacts": True}} for name in ("mlflow", "wandb")]
    run = train(config(video, *trackers, name="cartpole", timesteps=60), Path("runs/run"))
    (video_name,) = files_in(run.videos)
    expected = {"config.yaml", "model.zip", "result.json", f"videos/{video_name}"}
    _, (tracked,) = mlflow_store(Path("runs/mlruns"))
    assert files_in(Path(tracked.info.artifact_uri.removeprefix("file://"))) == expected
    (saved,) = run.directory.glob("wandb/offline-run-*/files")
    assert files_in(saved) >= expected


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_service_whose_package_is_missing_is_one_clear_message(package: str) -> None:
    Path("hidden").mkdir()
    Path(f"hidden/{package}.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name='{package}')"
    )
    Path("c.yaml").write_text(config(package).to_yaml())
    training = toolkit_process(["train", "c.yaml", "--out", "run"], PYTHONPATH=str(Path("hidden").resolve()))
    _, err = training.communicate(timeout=PATIENCE)
    assert training.returncode == 2
    assert f'pip install "sb3-toolkit[{package}]"' in err
    assert len(err.splitlines()) == 1
    assert not Path("run").exists()


def test_runs_that_start_at_once_share_an_experiment() -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = [*threads.map(lambda number: train(config(MLFLOW, timesteps=10), Path(f"runs/{number}")), range(4))]
    assert {tracked.info.run_name for tracked in mlflow_store(Path("runs/mlruns"))[1]} == {
        run.directory.name for run in runs
    }
