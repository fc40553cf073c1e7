"""The run directory: how it is made, opened, found and written to."""

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


def test_a_new_run_has_its_config_and_environment_and_nothing_else(config: RunConfig) -> None:
    run = Run.create(config)
    assert run.directory == Path("runs/small-1")
    assert files_in(run.directory) == {"config.yaml", "environment.json"}


def test_a_run_config_reads_back_as_the_same_config(config: RunConfig) -> None:
    run = Run.create(config)
    assert load_config(run.directory / "config.yaml").model_dump() == config.model_dump()
    assert Run.open(run.directory).config.model_dump() == config.model_dump()


def test_runs_are_numbered_after_the_highest_number_taken(config: RunConfig) -> None:
    Path("runs/small-7").mkdir(parents=True)
    Path("runs/small-7b").mkdir()
    Path("runs/small").mkdir()
    Path("runs/small-er-9").mkdir()
    assert [Run.create(config).directory.name for _ in range(2)] == ["small-8", "small-9"]


def test_runs_made_at_the_same_time_get_different_directories(config: RunConfig) -> None:
    together = threading.Barrier(8, timeout=10)

    def create(_: int) -> str:
        together.wait()
        return Run.create(config).directory.name

    with ThreadPoolExecutor(8) as pool:
        names = [*pool.map(create, range(40))]
    assert {*names} == {f"small-{number}" for number in range(1, 41)}


@pytest.mark.parametrize("exists", [True, False])
def test_a_run_can_be_put_in_an_empty_or_absent_directory(config: RunConfig, exists: bool) -> None:
    out = Path("deep/inside")
    if exists:
        out.mkdir(parents=True)
    assert Run.create(config, out).directory == out
    assert files_in(out) == {"config.yaml", "environment.json"}
    assert not Path("runs").exists()


def test_a_run_is_not_put_over_other_files(config: RunConfig) -> None:
    out = Path("mine")
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(RunError, match="mine: is not empty"):
        Run.create(config, out)
    assert files_in(out) == {"notes.txt"}


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_run_in_the_place_of_a_file_is_refused(config: RunConfig, out: str) -> None:
    Path("file").write_text("keep me")
    with pytest.raises(RunError, match=r"another directory|new directory"):
        Run.create(config, Path(out))
    assert Path("file").read_text() == "keep me"


FORKS = pytest.mark.filterwarnings("ignore:This process .*fork:DeprecationWarning")  # of Python 3.12


@FORKS
def test_a_lock_that_is_given_back_is_free_though_a_process_was_forked_meanwhile(config: RunConfig) -> None:
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
def test_a_copy_of_a_process_does_not_give_its_lock_back(config: RunConfig) -> None:
    run = Run.create(config)
    lock = run.lock()
    with lock:
        if (copy := os.fork()) == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(copy, 0)
        with pytest.raises(RunError, match="another process trains in it"), run.lock():
            pass


def test_a_directory_that_does_not_exist_is_no_run() -> None:
    with pytest.raises(RunError, match="nowhere: does not exist"):
        Run.open(Path("nowhere"))


def test_a_directory_without_a_config_is_no_run(config_file: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(config_file.parent)
    with pytest.raises(RunError, match="is not a run directory"):
        Run.open(config_file)


def test_the_newest_run_is_the_one_started_last(config: RunConfig) -> None:
    first, second = Run.create(config), Run.create(config, Path("runs/a-name-that-sorts-first"))
    first.write("result.json", "{}")  # ended last, but started first
    assert Run.newest().directory == second.directory


def test_without_any_run_there_is_no_newest() -> None:
    with pytest.raises(RunError, match="has no run yet"):
        Run.newest()
    Path("runs/empty").mkdir(parents=True)
    with pytest.raises(RunError, match="has no run yet"):
        Run.newest()


def test_a_file_is_written_whole_and_leaves_no_temporary(config: RunConfig) -> None:
    run = Run.create(config)
    for text in ("first\n", "sécond\n"):
        run.write("notes.txt", text)
        assert (run.directory / "notes.txt").read_text(encoding="utf-8") == text
    assert files_in(run.directory) == {"config.yaml", "environment.json", "notes.txt"}


def test_a_file_that_is_being_replaced_is_always_whole(config: RunConfig) -> None:
    run = Run.create(config)
    versions = {"a" * 100_000, "b" * 100_000}
    path = run.directory / "notes.txt"
    run.write("notes.txt", "a" * 100_000)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [run.write("notes.txt", text) for text in sorted(versions) * 20])
        while not writing.done():
            assert path.read_text() in versions
        writing.result()


def test_a_write_that_fails_leaves_the_old_file(config: RunConfig) -> None:
    run = Run.create(config)
    run.write("notes.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        run.write("notes.txt", "new \ud800")
    assert (run.directory / "notes.txt").read_text() == "old"


def test_the_result_is_none_until_it_is_written(config: RunConfig) -> None:
    run = Run.create(config)
    assert run.result is None
    run.write("result.json", json.dumps({"status": "finished"}))
    assert Run.open(run.directory).result == {"status": "finished"}
