"""Directories of jobs that machines exchange through a storage."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from small_runs import StopAt, find_differences, make_config
from support import files_in, wait_until

from toolkit import Run, train
from toolkit.training.trainer import resume
from toolkit.utils.errors import ToolkitError
from toolkit_plugins import job_storage
from toolkit_plugins.job_storage import RemoteDirectory, create_storage


class ExtractAt(StopAt):
    """Extracts the copy in a storage at a timestep of training, as soon as it has the snapshot before."""

    def __init__(self, remote: RemoteDirectory, timestep: int, destination: Path) -> None:
        super().__init__(timestep)
        self.remote = remote
        self.destination = destination

    def _on_step(self) -> bool:
        if self.num_timesteps == self.timestep:
            wait_until(self._has_extracted)
        return True

    def _has_extracted(self) -> bool:
        shutil.rmtree(self.destination, ignore_errors=True)
        if self.remote.exists():
            self.remote.extract(self.destination)
        return (self.destination / "snapshots" / "150").exists()


def test_run_resumes_elsewhere_from_uploaded_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_storage, "_POLL_INTERVAL", 0.02)
    short = make_config(timesteps=250)
    uninterrupted = train(short, tmp_path / "uninterrupted", [StopAt()])
    remote = RemoteDirectory("memory://" + uuid4().hex, tmp_path / "local" / "seeds [0, 1]*")
    with remote.working_copy() as directory:
        train(short, directory, [ExtractAt(remote, 200, tmp_path / "extracted")])
    run = resume(Run.open(tmp_path / "extracted"), [ExtractAt(remote, -1, tmp_path)])
    assert find_differences(run.directory, uninterrupted.directory) == []
    assert files_in(run.directory / "snapshots") == files_in(uninterrupted.directory / "snapshots")


def test_copy_is_behind_when_local_run_is_further(tmp_path: Path) -> None:
    remote = RemoteDirectory("memory://" + uuid4().hex, tmp_path)
    (tmp_path / "snapshots" / "20").mkdir(parents=True)
    (tmp_path / "snapshots" / "20" / "state.json").touch()
    monitor = "#{}\nr,l,t\n1.0,20,0.5\n"
    for name, text in {
        "monitor.csv": monitor,
        "result.json": '{"status": "finished"}',
        "evaluation.json": '{"episodes": 2, "mean_return": 1.0}',
    }.items():
        remote.upload(tmp_path)
        assert not remote.is_behind()
        (tmp_path / name).write_text(text)
        assert remote.is_behind(), name
    (tmp_path / "monitor.csv").write_text(monitor + "1.0,30,0.8\n")
    remote.upload(tmp_path)
    (tmp_path / "monitor.csv").write_text(monitor)
    assert not remote.is_behind(), "the copy is further"


def test_download_replaces_local_directory_and_deletes_copy(tmp_path: Path) -> None:
    local = tmp_path / "local"
    (local / "deep").mkdir(parents=True)
    (local / "deep" / "old").touch()
    remote = RemoteDirectory((tmp_path / "storage").as_uri(), local)
    remote.upload(local)
    with remote.working_copy() as directory:
        assert files_in(directory) == {"deep/old"}
        (directory / "deep" / "old").rename(directory / "new")
    assert not directory.exists()
    remote.download()
    assert files_in(tmp_path) == {"local/new"}


def test_long_names_in_any_script_get_distinct_copies(tmp_path: Path) -> None:
    directories = [tmp_path / name / ("長" * 80) / "seed-0" for name in ("a", "b")]
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / directory.parts[-3]).touch()
        RemoteDirectory((tmp_path / "storage").as_uri(), directory).upload(directory)
    for directory in directories:
        RemoteDirectory((tmp_path / "storage").as_uri(), directory).download()
        assert files_in(directory) == {directory.parts[-3]}


def test_upload_skips_files_that_are_being_written(tmp_path: Path) -> None:
    for name in (".tmp-300/state.json", ".model.zip.1f.tmp", ".recording-1/frame", "monitor.csv"):
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).touch()
    remote = RemoteDirectory((tmp_path / "storage").as_uri(), tmp_path / "local")
    remote.upload(tmp_path / "local")
    remote.extract(tmp_path / "extracted")
    assert files_in(tmp_path / "extracted") == {"monitor.csv"}


UPLOAD = """\
import pathlib
import sys

from toolkit_plugins.job_storage import RemoteDirectory

local = pathlib.Path(sys.argv[2])
RemoteDirectory(sys.argv[1], local).upload(local)
"""


def test_killed_upload_keeps_former_copy(tmp_path: Path) -> None:
    local, storage = tmp_path / "local", tmp_path / "storage"
    local.mkdir()
    (local / "file").write_text("complete")
    remote = RemoteDirectory(storage.as_uri(), local)
    remote.upload(local)
    (local / "file").unlink()
    with (local / "large").open("wb") as large:
        large.truncate(4 << 30)  # sparse, but its upload takes long
    with subprocess.Popen([sys.executable, "-c", UPLOAD, storage.as_uri(), local]) as upload:
        while len(files_in(storage)) < 2:
            time.sleep(0.01)
        upload.kill()
    assert upload.returncode == -signal.SIGKILL
    remote.extract(tmp_path / "extracted")
    assert (tmp_path / "extracted" / "file").read_text() == "complete"


@pytest.mark.parametrize("url", ["nowhere://bucket/runs", "file:///proc/runs"])
def test_unusable_storage_is_refused(url: str) -> None:
    with pytest.raises(ToolkitError, match=r"storage '.*' cannot be used: .*\ncheck the URL"):
        create_storage(url)
