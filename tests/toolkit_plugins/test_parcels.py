"""Directories that go through storage from one machine to another."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from support import files_in
from trained import StopAt, config, differences

from toolkit import Run, train
from toolkit.training.trainer import resume
from toolkit.utils.errors import ToolkitError
from toolkit_plugins import parcels
from toolkit_plugins.parcels import RemoteDirectory, make_storage


class FetchAt(StopAt):
    """Fetches what is in the storage while training goes on, as soon as a snapshot is."""

    def __init__(self, parcel: RemoteDirectory, timestep: int, place: Path) -> None:
        super().__init__(timestep)
        self.parcel = parcel
        self.place = place

    def _on_step(self) -> bool:
        for number in itertools.count() if self.num_timesteps == self.timestep else ():
            fetched = self.place.with_name(f"fetched-{number}")
            if self.parcel.is_there():
                self.parcel.fetch(fetched)
                if (fetched / "snapshots" / "450").exists():
                    fetched.rename(self.place)
                    break
            time.sleep(0.05)
        return True


def test_a_run_goes_on_elsewhere_from_what_was_sent_while_it_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "_LOOKS_EVERY", 0.02)
    plain = train(config(), tmp_path / "plain", [StopAt()])
    parcel = RemoteDirectory("memory://" + uuid4().hex, tmp_path / "home" / "seeds [0, 1]*")
    with parcel.unpacked() as own:
        train(config(), own, [FetchAt(parcel, 500, tmp_path / "fetched")])
    run = resume(Run.open(tmp_path / "fetched"), [FetchAt(parcel, -1, tmp_path)])
    assert differences(run.directory, plain.directory) == []
    assert files_in(run.directory / "snapshots") == files_in(plain.directory / "snapshots")


def test_a_parcel_is_behind_as_soon_as_a_run_has_gone_on_at_home(tmp_path: Path) -> None:
    parcel = RemoteDirectory("memory://" + uuid4().hex, tmp_path)
    (tmp_path / "snapshots" / "20").mkdir(parents=True)
    (tmp_path / "snapshots" / "20" / "state.json").touch()
    monitor = "#{}\nr,l,t\n1.0,20,0.5\n"
    for name, text in {
        "monitor.csv": monitor,
        "result.json": '{"status": "finished"}',
        "evaluation.json": '{"episodes": 2, "mean_return": 1.0}',
    }.items():
        parcel.send(tmp_path)
        assert not parcel.is_behind()
        (tmp_path / name).write_text(text)
        assert parcel.is_behind(), name
    (tmp_path / "monitor.csv").write_text(monitor + "1.0,30,0.8\n")
    parcel.send(tmp_path)
    (tmp_path / "monitor.csv").write_text(monitor)
    assert not parcel.is_behind(), "it has come further there"


def test_a_directory_comes_home_in_the_place_of_what_was_there_and_leaves_the_storage(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "old").touch()
    parcel = RemoteDirectory((tmp_path / "storage").as_uri(), home)
    parcel.send(home)
    with parcel.unpacked() as own:
        assert files_in(own) == {"deep/old"}
        (own / "deep" / "old").rename(own / "new")
    assert not own.exists()
    parcel.download()
    assert files_in(tmp_path) == {"home/new"}


def test_a_long_name_in_any_script_goes_through_storage_and_no_two_directories_are_one(tmp_path: Path) -> None:
    homes = [tmp_path / one / ("長" * 80) / "seed-0" for one in ("a", "b")]
    for home in homes:
        home.mkdir(parents=True)
        (home / home.parts[-3]).touch()
        RemoteDirectory((tmp_path / "storage").as_uri(), home).send(home)
    for home in homes:
        RemoteDirectory((tmp_path / "storage").as_uri(), home).download()
        assert files_in(home) == {home.parts[-3]}


def test_what_is_being_written_is_not_sent(tmp_path: Path) -> None:
    for name in (".tmp-300/state.json", ".model.zip.1f.tmp", ".recording-1/frame", "monitor.csv"):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    parcel = RemoteDirectory((tmp_path / "storage").as_uri(), tmp_path / "home")
    parcel.send(tmp_path / "home")
    parcel.fetch(tmp_path / "fetched")
    assert files_in(tmp_path / "fetched") == {"monitor.csv"}


def test_a_process_that_is_killed_while_it_sends_leaves_what_was_sent_before(tmp_path: Path) -> None:
    home, storage = tmp_path / "home", tmp_path / "storage"
    home.mkdir()
    (home / "file").write_text("whole")
    parcel = RemoteDirectory(storage.as_uri(), home)
    parcel.send(home)
    (home / "file").unlink()
    with (home / "large").open("wb") as large:
        large.truncate(4 << 30)  # which takes no room here, and none to speak of in the time until the end
    code = (
        "import sys, pathlib; from toolkit_plugins.parcels import RemoteDirectory\nhome = pathlib.Path(sys.argv[2])\n"
    )
    sending = subprocess.Popen(
        [sys.executable, "-c", code + "RemoteDirectory(sys.argv[1], home).send(home)", storage.as_uri(), home]
    )
    while len(files_in(storage)) < 2:
        time.sleep(0.01)
    sending.kill()
    assert sending.wait() == -signal.SIGKILL
    parcel.fetch(tmp_path / "fetched")
    assert (tmp_path / "fetched" / "file").read_text() == "whole"


@pytest.mark.parametrize("url", ["nowhere://bucket/runs", "file:///proc/runs"])
def test_storage_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ToolkitError, match=r"storage '.*' cannot be used: .*\nis the URL right"):
        make_storage(url)
