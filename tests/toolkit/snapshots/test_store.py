"""When snapshots are saved, which ones stay, and what they are made of."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from small_runs import StopAt, make_config

from toolkit import Run
from toolkit.snapshots import archive
from toolkit.training.trainer import resume, train
from toolkit.utils.errors import TrainingError


def snapshot_names(directory: Path) -> list[str]:
    return sorted((path.name for path in (directory / "snapshots").glob("[0-9]*")), key=int)


def test_store_keeps_latest_and_best_snapshots(tmp_path: Path) -> None:
    snapshots = {"every_timesteps": 50, "keep": 2}
    run = train(make_config("a2c", {"max_episode_steps": 20}, snapshots=snapshots, timesteps=400), tmp_path / "run")
    scores = json.loads((run.directory / "snapshots" / "scores.json").read_text())
    names = snapshot_names(run.directory)
    best = max(scores, key=lambda name: (scores[name], int(name)))
    assert names[-2:] == ["300", "350"]
    assert {*names} == {"300", "350", best}
    assert {*scores} == {*names}


def test_score_is_on_disk_before_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is made of the run meanwhile lacks no score."""
    scored: list[bool] = []

    rename = Path.rename

    def look_and_rename(path: Path, target: Path) -> Path:
        if target.parent.name == "snapshots":
            scored.append(target.name in json.loads((target.parent / "scores.json").read_text()))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look_and_rename)
    train(make_config(timesteps=250), tmp_path / "run", [StopAt()])
    assert scored == [True]


def test_snapshots_are_saved_by_the_clock(tmp_path: Path) -> None:
    run = train(make_config("a2c", snapshots={"every_minutes": 1e-9, "keep": 1000}, timesteps=50), tmp_path / "run")
    assert snapshot_names(run.directory) == [str(timesteps) for timesteps in range(0, 50, 5)]


def test_snapshot_is_json_and_arrays_with_checksums(interrupted_directory: Path) -> None:
    snapshot = interrupted_directory / "snapshots" / "300"
    assert {path.name for path in snapshot.iterdir()} == {"state.json", "arrays.safetensors", "SHA256SUMS"}
    progress = json.loads((snapshot / "state.json").read_text())["progress"]
    assert progress["attributes"]["num_timesteps"] == 300
    process = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=snapshot, capture_output=True, check=False)
    assert process.returncode == 0


def test_new_snapshots_replace_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train(make_config(), tmp_path / "run", [StopAt(330)])
    for state in (tmp_path / "run" / "snapshots").glob("[0-9]*/state.json"):
        state.write_text("{}")
    with pytest.raises(TrainingError):
        resume(Run.open(tmp_path / "run"), [StopAt(330)])
    assert snapshot_names(tmp_path / "run") == ["150", "300"]
    assert all(archive.read(tmp_path / "run" / "snapshots" / name) for name in ("150", "300"))
