"""The promises of a launcher."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.config.registry import KINDS, find
from toolkit.experiments.launcher import Ended, Job, Launcher
from toolkit.testing import sample_jobs
from toolkit.testing.component import (
    NO_PARAMS,
    ConformanceError,
    build_component,
    name_component,
    report_exceptions,
)
from toolkit.utils.errors import ToolkitError, describe_error
from toolkit.utils.signals import InterruptedTraining, SignalGuard

_ARGUMENTS = {"content": {"text": "ä\n", "numbers": [1, 0.5, None]}}
_SECOND_JOB_SECONDS = 10  # for a second job to start beside the first, if there is room for it
_JOB_SECONDS = 60  # of a job that nobody stops
_REPEATED = "again/seed-0"
_ERROR_ADVICE = (
    "yield Ended(job, error) for a job that raises or whose process dies; make the text in the job's process, as not "
    "every exception can be pickled; raise toolkit.ToolkitError if jobs cannot run anywhere"
)
_CALL_ADVICE = (
    "call function(directory, **arguments) in the main thread of another process; the directory and its parents need "
    "not exist"
)
_STOP_ADVICE = (
    "then start no other job, send SIGTERM once to each running job, and wait until its process has ended and its "
    "files are here: try: ... yield ... finally: ..."
)


def check_launcher(launcher: str | type[Launcher], *, params: Mapping[str, Any] = NO_PARAMS) -> None:
    """Check that a launcher yields every job once, when it has ended, and stops running jobs if it has to end early.

    It launches a few jobs in four trials:

    - jobs that write files, raise, or lose their process
    - no jobs
    - jobs that run until the iterator is closed
    - jobs that run until a signal raises an exception in it, in the main thread only

    The jobs' temporary directory must have the same path on every machine that runs them.

    :param launcher: its name or its class
    :param params: arguments of its constructor; with room for two jobs at once the check sees more, and sooner
    :raises ConformanceError: with the first promise that it breaks, and what to change
    :raises ToolkitError: if the launcher does not exist or cannot be built, or jobs cannot run anywhere
    """
    sample_jobs.launching_process = os.getpid()
    with name_component(launcher) as name:
        cls = find(KINDS["launchers"], name)
        for trial in (_check_ends, _check_no_jobs, _check_close, _check_interrupt):
            instance = build_component(cls, params)
            with TemporaryDirectory(
                ignore_cleanup_errors=True
            ) as folder:  # a launcher that does not wait may write on
                trial(cls.__name__, instance, Path(folder))


def _check_ends(label: str, launcher: Launcher, folder: Path) -> None:
    """Launch jobs that write files, raise, and lose their process."""
    with report_exceptions(f"{label}.prepare", _ERROR_ADVICE, ToolkitError):
        launcher.prepare()
    runs = folder / "runs"
    repeated = Job(_REPEATED, runs / _REPEATED, sample_jobs.append_output, _ARGUMENTS)
    repeated.directory.mkdir(parents=True)
    (repeated.directory / sample_jobs.OUTPUT_FILE).write_text(sample_jobs.EARLIER_OUTPUT)
    relative_path = Path(os.path.relpath(runs / "new" / "seed-0"))  # as in an experiment
    jobs = [
        Job("fails", runs / "fails", sample_jobs.raise_error, {}),
        Job("dies", runs / "dies", sample_jobs.kill_own_process, {"marker_folder": str(folder)}),
        Job("new/seed-0", relative_path, sample_jobs.append_output, _ARGUMENTS),
        repeated,
    ]
    pending = [*jobs]
    with closing(_launch(label, launcher, jobs)) as results:
        for ended in results:
            _check_result(label, ended, jobs, pending)
            pending.remove(ended.job)
            _check_outcome(label, ended)
    if pending:
        names = ", ".join(job.name for job in pending)
        advice = "yield every job once; one that raises or dies is yielded with an error and stops no other job"
        raise ConformanceError(f"{label}.launch ended without {names}; {advice}")


def _check_no_jobs(label: str, launcher: Launcher, _: Path) -> None:
    with closing(_launch(label, launcher, [])) as results:
        for ended in results:
            raise ConformanceError(f"{label}.launch([]) yielded {ended!r:.200}; yield nothing if there are no jobs")


def _check_close(label: str, launcher: Launcher, folder: Path) -> None:
    """Close the iterator after the first job."""
    arguments = {"marker_folder": str(folder), "seconds": _SECOND_JOB_SECONDS}
    first_job = Job("first", folder / "runs" / "first", sample_jobs.wait_for_other_job, arguments)
    waiting_jobs = [_make_waiting_job(name, folder) for name in ("second", "third", "fourth")]
    with closing(_launch(label, launcher, [first_job, *waiting_jobs])) as results:
        for ended in results:
            _check_no_error(label, ended)
            break
    _check_saved(label, "its iterator was closed", waiting_jobs, folder)


def _check_interrupt(label: str, launcher: Launcher, folder: Path) -> None:
    """Interrupt the iterator by a signal, as `toolkit experiment` is interrupted."""
    main_thread = threading.main_thread()
    if threading.current_thread() is not main_thread or not hasattr(signal, "pthread_kill"):
        return
    job, is_over = _make_waiting_job("waits", folder), threading.Event()

    def interrupt() -> None:
        while not is_over.wait(0.02):
            if sample_jobs.has_started(folder, job.name):
                signal.pthread_kill(main_thread.ident or 0, signal.SIGTERM)
                return

    interrupter = threading.Thread(target=interrupt)
    with SignalGuard(defer_first=False).installed(), closing(_launch(label, launcher, [job])) as results:
        interrupter.start()
        try:
            observed = f"yielded {next(results, None)!r:.200}"
        except InterruptedTraining:
            observed = ""
        except (SystemExit, KeyboardInterrupt) as error:
            observed = f"raised {describe_error(error)}"
        finally:
            is_over.set()
            interrupter.join()
    if observed:
        advice = "let the exception propagate, and leave the signal handlers as they are"
        raise ConformanceError(f"{label}.launch {observed} when a signal raised an exception in it; {advice}")
    _check_saved(label, "a signal raised an exception in it", [job], folder)


def _make_waiting_job(name: str, folder: Path) -> Job:
    arguments = {"marker_folder": str(folder), "seconds": _JOB_SECONDS}
    return Job(name, folder / "runs" / name, sample_jobs.wait_for_signal, arguments)


def _launch(label: str, launcher: Launcher, jobs: Sequence[Job]) -> Generator[Any, None, None]:
    """Yield what the launcher yields. Closing this generator closes the launcher's."""
    with report_exceptions(f"{label}.launch", _ERROR_ADVICE, ToolkitError):
        results: Any = launcher.launch(jobs)
        if not (hasattr(results, "__next__") and hasattr(results, "close")):
            advice = "return an iterator with close(), such as a generator: yield each job when it has ended"
            raise ConformanceError(f"{label}.launch returned {results!r:.200}; {advice}")
        with closing(results):
            yield from results


def _check_result(label: str, ended: Any, jobs: Sequence[Job], pending: Sequence[Job]) -> None:
    """Check that a result is the end of a job that is still pending."""
    if not isinstance(ended, Ended):
        raise ConformanceError(f"{label}.launch yielded {ended!r:.200}; yield Ended(job, error) when a job has ended")
    if ended.job not in jobs:
        raise ConformanceError(f"{label}.launch yielded {ended.job!r:.200}; yield the launched job, unchanged")
    if ended.job not in pending:
        raise ConformanceError(
            f"{label}.launch yielded {ended.job.name} twice; yield every job once, when it has ended"
        )
    error = ended.error
    if error is not None and not (isinstance(error, str) and len(error.splitlines()) == 1):
        advice = "pass None, or one line such as toolkit.utils.errors.describe_error(exception)"
        raise ConformanceError(f"{label}.launch yielded {error!r:.200} as the error of {ended.job.name}; {advice}")


def _check_outcome(label: str, ended: Ended) -> None:
    """Check a job's error and files. A job whose process died may have been called again."""
    job, output = ended.job, ended.job.directory / sample_jobs.OUTPUT_FILE
    if job.function is sample_jobs.append_output:
        _check_no_error(label, ended)
        _check_output(label, job, output.read_text() if output.exists() else None)
    elif job.function is sample_jobs.raise_error and "no luck" not in (ended.error or ""):
        observed = f"yielded {ended.error!r} as the error of {job.name}, which raised NoLuckError: no luck"
        raise ConformanceError(f"{label}.launch {observed}; {_ERROR_ADVICE}")
    elif job.function is sample_jobs.kill_own_process and ended.error is None and not output.exists():
        observed = f"yielded {job.name} without an error, although its process died"
        raise ConformanceError(f"{label}.launch {observed}; {_ERROR_ADVICE}")


def _check_output(label: str, job: Job, text: str | None) -> None:
    """Check that the output of this call, and only one, follows that of earlier calls."""
    if text is None:
        advice = "a job's files are in its directory on this machine when it is yielded; the path may be relative"
        raise ConformanceError(f"{label}.launch yielded {job.name}, but its output file does not exist; {advice}")
    line = json.dumps(job.arguments["content"])
    expected = (sample_jobs.EARLIER_OUTPUT if job.name == _REPEATED else "") + line
    if text != expected:
        advice = "a job continues from the files in its directory, and is called once unless its process dies"
        raise ConformanceError(f"{label}.launch left {text!r:.300} of {job.name}, not {expected!r}; {advice}")


def _check_no_error(label: str, ended: Ended) -> None:
    if ended.error is not None:
        raise ConformanceError(
            f"{label}.launch yielded {ended.job.name} with the error {ended.error!r:.600}; {_CALL_ADVICE}"
        )


def _check_saved(label: str, reason: str, jobs: Sequence[Job], folder: Path) -> None:
    """Check that every job that had started could save its work at SIGTERM."""
    started_jobs = [job for job in jobs if sample_jobs.has_started(folder, job.name)]
    if not all((job.directory / sample_jobs.SAVED_FILE).exists() for job in started_jobs):
        observed = f"ended when {reason}, while a job was running or before it had saved"
        raise ConformanceError(f"{label}.launch {observed}; {_STOP_ADVICE}")
