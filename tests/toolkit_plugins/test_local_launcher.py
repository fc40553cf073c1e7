"""Jobs in processes of this machine: how they run, end, and are stopped."""

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

from toolkit import Job
from toolkit.utils import processes
from toolkit_plugins.local_launcher import LocalLauncher


def job(function: Callable[..., None], name: str = "job", **arguments: Any) -> Job:
    return Job(name, Path("all") / name, function, arguments)


def errors(launched: Sequence[Job], workers: int = 2) -> dict[str, str | None]:
    return {ended.job.name: ended.error for ended in LocalLauncher(workers).launch(launched)}


def test_every_job_is_called_with_its_directory_and_arguments() -> None:
    assert errors([job(jobs.write, name, text=name) for name in "abc"]) == {"a": None, "b": None, "c": None}
    assert {path.parent.name: path.read_text() for path in Path("all").glob("*/said")} == {one: one for one in "abc"}


def test_as_many_jobs_run_at_once_as_there_are_workers() -> None:
    assert errors([job(jobs.meet, name, others=3) for name in "abc"], workers=3) == {"a": None, "b": None, "c": None}


def test_jobs_are_started_in_their_order() -> None:
    names = [ended.job.name for ended in LocalLauncher(1).launch([job(jobs.write, one, text="") for one in "cab"])]
    assert names == ["c", "a", "b"]


def test_a_job_that_fails_however_stops_no_other_and_says_why() -> None:
    launched = [
        job(jobs.fail, "raises"),
        job(jobs.be_killed, "killed"),
        job(jobs.leave, "exits", status=3),
        job(jobs.write, "works", text=""),
    ]
    found = errors(launched)
    assert found.pop("works") is None
    assert found == {
        "raises": f"ValueError: no luck ({jobs.__file__}:{jobs.fail.__code__.co_firstlineno + 1})",
        "killed": "its process was killed by SIGKILL, perhaps for want of memory",
        "exits": f"SystemExit: 3 ({jobs.__file__}:{jobs.leave.__code__.co_firstlineno + 1})",
    }


def test_what_a_job_prints_is_kept_beside_its_directory_and_not_on_the_screen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    errors([job(jobs.speak, "speaks"), job(jobs.write, "silent", text=""), job(jobs.fail, "fails")])
    logs = {path.name: path.read_text() for path in Path("all").glob("log-*")}
    assert logs.keys() == {"log-speaks.txt", "log-fails.txt"}
    assert logs["log-speaks.txt"] == "printed\nwarning: warned\nfrom C\n"
    assert "ValueError: no luck" in logs["log-fails.txt"]
    assert capfd.readouterr() == ("", "")


def test_a_job_whose_log_cannot_be_written_fails(working_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (working_directory / "all").write_text("a file")
    assert "File exists" in (errors([job(jobs.write, text="")])["job"] or "")
    assert capfd.readouterr() == ("", "")


def test_jobs_start_with_what_training_needs_imported() -> None:
    errors([job(jobs.write_imported, names=["toolkit.evaluation.preload", "scipy.stats"])])
    assert Path("all/job/said").read_text() == "True True"


def test_threads_of_torch_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    errors([job(jobs.write_threads, "two")], workers=2)
    errors([job(jobs.write_threads, "ten")], workers=10)
    assert [Path("all", name, "said").read_text() for name in ("two", "ten")] == ["3", "1"]


def test_a_signal_of_the_terminal_does_not_reach_a_job() -> None:
    errors([job(jobs.write_process)])
    process, group = Path("all/job/said").read_text().split()
    assert group == process
    assert int(group) != os.getpgid(0)


def test_jobs_are_stopped_and_waited_for_when_the_iterator_is_closed() -> None:
    launched = LocalLauncher(3).launch(
        [job(jobs.wait_for_the_end, "a"), job(jobs.wait_for_the_end, "b"), job(jobs.write, "c", text="")]
    )
    assert next(launched).job.name == "c"
    wait_until(lambda: len([*Path("all").glob("*/process")]) == 2)
    launched.close()
    assert [Path("all", name, "signals").read_text() for name in "ab"] == ["1", "1"]


def test_a_signal_to_all_processes_and_being_stopped_because_of_it_are_one() -> None:
    launched = LocalLauncher(2).launch([job(jobs.wait_for_the_end, "a"), job(jobs.write_process, "b")])
    assert next(launched).job.name == "b"
    wait_until(Path("all/a/process").exists)
    os.kill(int(Path("all/a/process").read_text()), signal.SIGTERM)
    launched.close()
    assert Path("all/a/signals").read_text() == "1"


ORPHANS = """\
import jobs
from toolkit import Job
from toolkit_plugins.local_launcher import LocalLauncher

if __name__ == "__main__":
    launched = [Job(name, __import__("pathlib").Path("all", name), jobs.wait_for_the_end, {}) for name in "ab"]
    for ended in LocalLauncher(2).launch(launched):
        print(ended)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_script_without_a_guard_is_told_so_once() -> None:
    Path("script.py").write_text(ORPHANS.replace('if __name__ == "__main__"', "if 1"))
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert re.search(
        r"ToolkitError: [ab]: its process ended with status 1 before the job began\n"
        "a script that trains needs `if __name__ == '__main__':` around what it does\n$",
        done.stderr,
    )
    assert done.stderr.count("Traceback") == 1
    assert not Path("all").exists()


def test_a_script_that_is_not_in_a_file_is_refused() -> None:
    command = [sys.executable, "-"]
    done = subprocess.run(command, env=environment(), input=ORPHANS, capture_output=True, text=True, check=False)
    assert "<stdin>: this script is not in a file, which other processes need\nrun it from one" in done.stderr
    assert not Path("all").exists()


def test_jobs_whose_parent_is_killed_are_stopped() -> None:
    Path("script.py").write_text(ORPHANS)
    with subprocess.Popen([sys.executable, "script.py"], env=environment()) as parent:
        wait_until(lambda: len([*Path("all").glob("*/process")]) == 2)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: len([*Path("all").glob("*/signals")]) == 2)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_that_another_thread_gets_does_not_come_between_the_start_of_a_job_and_knowing_it() -> None:
    came: list[int] = []
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        other.start()
        with processes.block_signals("SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)  # the other thread gets it, as this one does not let it through
            time.sleep(0.1)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        ended.set()
        other.join()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalLauncher(workers)
