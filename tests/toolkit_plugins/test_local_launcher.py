"""Jobs in processes of this machine: how they run, end, and stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jobs
import pytest
from support import wait_until

from toolkit import Job
from toolkit.experiments.launcher import list_slow_imports
from toolkit.utils import processes
from toolkit_plugins.local_launcher import LocalLauncher


def make_job(function: Callable[..., None], name: str = "job", **arguments: Any) -> Job:
    return Job(name, Path("all") / name, function, arguments)


def launch(launched: Sequence[Job], workers: int = 2) -> dict[str, str | None]:
    """Run jobs; return their errors."""
    return {ended.job.name: ended.error for ended in LocalLauncher(workers).launch(launched)}


def test_jobs_get_directory_and_arguments() -> None:
    errors = launch([make_job(jobs.write, name, text=name) for name in "abc"])
    assert errors == {"a": None, "b": None, "c": None}
    assert {path.parent.name: path.read_text() for path in Path("all").glob("*/text")} == {
        name: name for name in "abc"
    }


def test_as_many_jobs_run_at_once_as_workers() -> None:
    errors = launch([make_job(jobs.wait_for_others, name, count=3) for name in "abc"], workers=3)
    assert errors == {"a": None, "b": None, "c": None}


def test_jobs_start_in_their_order() -> None:
    launched = [make_job(jobs.write, name, text="") for name in "cab"]
    assert [ended.job.name for ended in LocalLauncher(1).launch(launched)] == ["c", "a", "b"]


def test_failed_job_stops_no_other_and_gives_reason() -> None:
    errors = launch(
        [
            make_job(jobs.fail, "raises"),
            make_job(jobs.kill_process, "killed"),
            make_job(jobs.exit_with, "exits", status=3),
            make_job(jobs.write, "works", text=""),
        ]
    )
    assert errors == {
        "raises": f"ValueError: no luck ({jobs.__file__}:{jobs.fail.__code__.co_firstlineno + 1})",
        "killed": "its process was killed by SIGKILL, perhaps because memory ran out",
        "exits": f"SystemExit: 3 ({jobs.__file__}:{jobs.exit_with.__code__.co_firstlineno + 1})",
        "works": None,
    }


def test_output_of_jobs_goes_to_logs_beside_their_directories(capfd: pytest.CaptureFixture[str]) -> None:
    launch(
        [make_job(jobs.print_lines, "prints"), make_job(jobs.write, "silent", text=""), make_job(jobs.fail, "fails")]
    )
    logs = {path.name: path.read_text() for path in Path("all").glob("log-*")}
    assert logs.keys() == {"log-prints.txt", "log-fails.txt"}
    assert logs["log-prints.txt"] == "printed\nwarning: warned\nfrom C\n"
    assert "ValueError: no luck" in logs["log-fails.txt"]
    assert capfd.readouterr() == ("", "")


def test_job_fails_if_its_log_cannot_be_written(working_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (working_directory / "all").write_text("a file")
    assert "File exists" in (launch([make_job(jobs.write, text="")])["job"] or "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("own_fork_server")
def test_jobs_start_with_imported_modules() -> None:
    launcher = LocalLauncher()
    launcher.slow_imports = list_slow_imports(["double_dqn", "ppo"])
    names = ["toolkit.experiments.preload", "gymnasium.envs.classic_control.cartpole", "torch._dynamo"]
    assert [ended.error for ended in launcher.launch([make_job(jobs.write_imported, names=names)])] == [None]
    assert Path("all/job/text").read_text() == "True True True"


@pytest.mark.skipif("OMP_NUM_THREADS" in os.environ, reason="the variable sets the threads")
def test_torch_threads_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    launch([make_job(jobs.write_threads, "two")], workers=2)
    launch([make_job(jobs.write_threads, "ten")], workers=10)
    assert [Path("all", name, "text").read_text() for name in ("two", "ten")] == ["3", "1"]


def test_job_leads_its_own_process_group() -> None:
    launch([make_job(jobs.write_process)])
    process, group = Path("all/job/text").read_text().split()
    assert group == process
    assert int(group) != os.getpgid(0)


def test_closing_the_iterator_stops_jobs_once_and_waits() -> None:
    names = ("signalled", "waiting")
    launched = LocalLauncher(3).launch(
        [*(make_job(jobs.wait_for_sigterm, name) for name in names), make_job(jobs.write, "c", text="")]
    )
    assert next(launched).job.name == "c"
    wait_until(lambda: len([*Path("all").glob("*/process")]) == 2)
    # a batch system signals all processes, and the launcher then stops its jobs
    os.kill(int(Path("all/signalled/process").read_text()), signal.SIGTERM)
    launched.close()
    assert [Path("all", name, "signals").read_text() for name in names] == ["1", "1"]


SCRIPT = """\
from pathlib import Path

import jobs
from toolkit import Job
from toolkit_plugins import local_launcher

local_launcher._PRELOADED = ("json",)  # the real ones take seconds, and these jobs need none

if __name__ == "__main__":
    launched = [Job(name, Path("all", name), jobs.wait_for_sigterm, {}) for name in "ab"]
    for ended in local_launcher.LocalLauncher(2).launch(launched):
        print(ended)
"""


def script_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_script_without_main_guard_gets_one_hint() -> None:
    Path("script.py").write_text(SCRIPT.replace('if __name__ == "__main__"', "if 1"))
    command = [sys.executable, "script.py"]
    result = subprocess.run(command, env=script_environment(), capture_output=True, text=True, check=False)
    assert re.search(
        r"ToolkitError: [ab]: its process ended with status 1 before the job began\n"
        "put the training of the script under `if __name__ == '__main__':`\n$",
        result.stderr,
    )
    assert result.stderr.count("Traceback") == 1
    assert not Path("all").exists()


def test_script_without_file_is_refused() -> None:
    command = [sys.executable, "-"]
    result = subprocess.run(
        command, env=script_environment(), input=SCRIPT, capture_output=True, text=True, check=False
    )
    assert "<stdin>: this script has no file, and other processes cannot import it\nsave it first" in result.stderr
    assert not Path("all").exists()


def test_jobs_stop_when_parent_is_killed() -> None:
    Path("script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, "script.py"], env=script_environment()) as parent:
        wait_until(lambda: len([*Path("all").glob("*/process")]) == 2)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: len([*Path("all").glob("*/signals")]) == 2)


def test_blocked_signal_waits_even_if_another_thread_gets_it() -> None:
    received: list[int] = []
    has_ended = threading.Event()
    other = threading.Thread(target=has_ended.wait)
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        other.start()
        with processes.block_signals("SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)  # the other thread gets it, as this one blocks it
            time.sleep(0.1)
            assert received == []
        assert received == [signal.SIGTERM]
    finally:
        has_ended.set()
        other.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalLauncher(workers)
