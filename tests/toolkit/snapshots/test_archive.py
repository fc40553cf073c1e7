"""An archive can be read, or is not written at all."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_config
from support import files_in

from toolkit.snapshots import archive
from toolkit.training.trainer import train
from toolkit.utils.errors import RunError


def test_write_refuses_json_that_read_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_JSON", 1 << 20)
    fits, too_large = {"text": "x" * 1_000_000}, {"text": "x" * 1_100_000}
    archive.write(tmp_path / "archive", fits)
    assert archive.read(tmp_path / "archive") == fits
    with pytest.raises(OSError, match=r"state.json would be larger than 1 MiB"):
        archive.write(tmp_path / "other", too_large)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "work"}


def test_training_warns_of_snapshot_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive, "_MAX_JSON", 1_000)
    run = train(make_config(timesteps=200), tmp_path / "run")
    assert (run.result or {})["status"] == "finished"
    directory = run.directory / "snapshots" / "150"
    assert f"no snapshot at timestep 150: state.json would be larger than 0 MiB: {directory}" in caplog.messages
    assert not files_in(run.directory / "snapshots")


def test_write_refuses_existing_archive(tmp_path: Path) -> None:
    archive.write(tmp_path / "archive", {"array": np.arange(3)})
    with pytest.raises(OSError, match="not empty"):
        archive.write(tmp_path / "archive", {})
    assert [*archive.read(tmp_path / "archive")["array"]] == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "work"}


@pytest.mark.parametrize("container", ["[]", '{"a":0}'])
def test_read_refuses_many_containers_in_bounded_memory(container: str, tmp_path: Path) -> None:
    archive.write(tmp_path / "archive", [])
    state = tmp_path / "archive" / "state.json"
    state.write_text("[" + ",".join([container] * (15_000_000 // (len(container) + 1))) + "]")
    names = ("state.json", "arrays.safetensors")
    sums = [f"{hashlib.sha256((state.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (state.parent / "SHA256SUMS").write_text("".join(sums))
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match="lists and mappings"):
            archive.read(tmp_path / "archive")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_write_refuses_too_many_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_CONTAINERS", 100)
    with pytest.raises(OSError, match="more than 100 lists and mappings"):
        archive.write(tmp_path / "archive", [[]] * 100)
    assert not (tmp_path / "archive").exists()
