"""A run directory is created, opened, found, locked and written to."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import files_in

from toolkit import Run, RunConfig, load_config
from toolkit.utils.errors import RunError


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


def test_new_run_has_only_config_and_environment(config: RunConfig) -> None:
    run = Run.create(config)
    assert run.directory == Path("runs/small-1")
    assert files_in(run.directory) == {"config.yaml", "environment.json"}


def test_config_of_run_reads_back_unchanged(config: RunConfig) -> None:
    run = Run.create(config)
    assert load_config(run.directory / "config.yaml").model_dump() == config.model_dump()
    assert Run.open(run.directory).config.model_dump() == config.model_dump()
    assert Run.open(str(run.directory)).directory == run.directory


def test_new_run_gets_number_after_highest_existing(config: RunConfig) -> None:
    Path("runs/small-7").mkdir(parents=True)
    Path("runs/small-7b").mkdir()
    Path("runs/small").mkdir()
    Path("runs/small-er-9").mkdir()
    assert [Run.create(config).directory.name for _ in range(2)] == ["small-8", "small-9"]


def test_simultaneous_runs_get_different_directories(config: RunConfig) -> None:
    barrier = threading.Barrier(8, timeout=10)

    def create(_: int) -> str:
        barrier.wait()
        return Run.create(config).directory.name

    with ThreadPoolExecutor(8) as pool:
        names = [*pool.map(create, range(40))]
    assert {*names} == {f"small-{number}" for number in range(1, 41)}


@pytest.mark.parametrize("exists", [True, False])
def test_run_is_created_in_empty_or_absent_directory(config: RunConfig, exists: bool) -> None:
    out = Path("deep/inside")
    if exists:
        out.mkdir(parents=True)
    assert Run.create(config, out).directory == out
    assert files_in(out) == {"config.yaml", "environment.json"}
    assert not Path("runs").exists()


def test_nonempty_directory_is_refused(config: RunConfig) -> None:
    out = Path("mine")
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(RunError, match="mine: is not empty"):
        Run.create(config, out)
    assert files_in(out) == {"notes.txt"}


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_path_of_file_is_refused(config: RunConfig, out: str) -> None:
    Path("file").write_text("keep me")
    with pytest.raises(RunError, match=r"another directory|new directory"):
        Run.create(config, Path(out))
    assert Path("file").read_text() == "keep me"


FORKS = pytest.mark.filterwarnings("ignore:This process .*fork:DeprecationWarning")  # of Python 3.12


@FORKS
def test_released_lock_is_free_while_forked_process_lives(config: RunConfig) -> None:
    run = Run.create(config)
    with run.lock():
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        forked.start()
    try:
        with run.lock():
            assert forked.is_alive()
    finally:
        forked.kill()
        forked.join()


@FORKS
def test_forked_process_does_not_release_lock_of_parent(config: RunConfig) -> None:
    run = Run.create(config)
    lock = run.lock()
    with lock:
        if (copy := os.fork()) == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(copy, 0)
        with pytest.raises(RunError, match="another process trains in it"), run.lock():
            pass


def test_open_refuses_absent_directory() -> None:
    with pytest.raises(RunError, match="nowhere: does not exist"):
        Run.open(Path("nowhere"))


def test_open_refuses_directory_without_config(config_file: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(config_file.parent)
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(config_file)


def test_newest_run_is_the_last_one_started(config: RunConfig) -> None:
    first, second = Run.create(config), Run.create(config, Path("runs/a-name-that-sorts-first"))
    first.write("result.json", "{}")  # ended last, but started first
    assert Run.newest().directory == second.directory


def test_newest_without_any_run_raises_run_error() -> None:
    with pytest.raises(RunError, match="has no run yet"):
        Run.newest()
    Path("runs/empty").mkdir(parents=True)
    with pytest.raises(RunError, match="has no run yet"):
        Run.newest()


def test_write_leaves_no_temporary_file(config: RunConfig) -> None:
    run = Run.create(config)
    for text in ("first\n", "sécond\n"):
        run.write("notes.txt", text)
        assert (run.directory / "notes.txt").read_text(encoding="utf-8") == text
    assert files_in(run.directory) == {"config.yaml", "environment.json", "notes.txt"}


def test_reader_never_sees_partly_written_file(config: RunConfig) -> None:
    run = Run.create(config)
    versions = {"a" * 100_000, "b" * 100_000}
    path = run.directory / "notes.txt"
    run.write("notes.txt", "a" * 100_000)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [run.write("notes.txt", text) for text in sorted(versions) * 20])
        while not writing.done():
            assert path.read_text() in versions
        writing.result()


def test_failed_write_keeps_old_file(config: RunConfig) -> None:
    run = Run.create(config)
    run.write("notes.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        run.write("notes.txt", "new \ud800")
    assert (run.directory / "notes.txt").read_text() == "old"


def test_result_is_none_until_it_is_written(config: RunConfig) -> None:
    run = Run.create(config)
    assert run.result is None
    run.write("result.json", json.dumps({"status": "finished"}))  # version 0.1.0 has no mean_return
    assert Run.open(run.directory).result == {"status": "finished"}


@pytest.mark.parametrize("mean_return", ["much", [1.0], True])
def test_result_with_other_type_of_mean_return_is_damaged(config: RunConfig, mean_return: object) -> None:
    run = Run.create(config)
    run.write("result.json", json.dumps({"status": "finished", "mean_return": mean_return}))
    with pytest.raises(RunError, match="is damaged"):
        _ = run.result
