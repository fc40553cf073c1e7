"""What is written as an archive can be read, or is not written at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import make_config
from support import files_in

from toolkit.snapshots import archive
from toolkit.training.trainer import train


def test_what_would_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_JSON", 1 << 20)
    fits, too_large = {"text": "x" * 1_000_000}, {"text": "x" * 1_100_000}
    archive.write(tmp_path / "archive", fits)
    assert archive.read(tmp_path / "archive") == fits
    with pytest.raises(OSError, match=r"state.json would be larger than 1 MiB"):
        archive.write(tmp_path / "other", too_large)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "work"}


def test_a_snapshot_that_could_not_be_read_back_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive, "_MAX_JSON", 1_000)
    run = train(make_config(timesteps=200), tmp_path / "run")
    assert (run.result or {})["status"] == "finished"
    assert "no snapshot at timestep 150: state.json would be larger than 0 MiB" in caplog.messages
    assert not files_in(run.directory / "snapshots")


def test_an_archive_is_not_written_over(tmp_path: Path) -> None:
    archive.write(tmp_path / "archive", {"array": np.arange(3)})
    with pytest.raises(OSError, match="not empty"):
        archive.write(tmp_path / "archive", {})
    assert [*archive.read(tmp_path / "archive")["array"]] == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "work"}
