"""What a launcher promises."""

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
from toolkit.testing.component import ConformanceError, build, called
from toolkit.utils.errors import ToolkitError, describe_error
from toolkit.utils.signals import InterruptedTraining, SignalGuard

_ARGUMENTS = {"said": {"text": "ä\n", "numbers": [1, 0.5, None]}}
_ROOM = 10  # seconds for a second job to begin beside the first, if there is room for it
_PATIENCE = 60  # seconds that a job works which nobody stops
_AGAIN = "again/seed-0"
_ERRORS = (
    "give Ended(job, error) where a job raises, in text made in its own process, as not every exception can be "
    "pickled, and where its process dies; raise toolkit.ToolkitError where there is nowhere to run jobs"
)
_STOP = (
    "start no other job then, send SIGTERM to each that runs, once, and wait until its process has ended and its "
    "files are here: try: ... yield ... finally: ..."
)


def check(name: str, params: Mapping[str, Any]) -> None:
    """Check everything.

    :raises ConformanceError: with the first promise that is not kept
    :raises ComponentError: if there is no such launcher
    :raises ConfigError: if it cannot be built
    :raises ToolkitError: if there is nowhere to run jobs
    """
    cls = find(KINDS["launchers"], name)
    sample_jobs.launched_from = os.getpid()
    for trial in (_gives_each_job_as_it_ended, _launches_nothing, _stops_when_closed, _stops_when_interrupted):
        launcher = build(cls, params)
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # one that does not wait may write on
            trial(cls.__name__, launcher, Path(folder))


def _gives_each_job_as_it_ended(label: str, launcher: Launcher, folder: Path) -> None:
    with called(f"{label}.prepare", _ERRORS, ToolkitError):
        launcher.prepare()
    runs = folder / "runs"
    again = Job(_AGAIN, runs / _AGAIN, sample_jobs.write, _ARGUMENTS)
    again.directory.mkdir(parents=True)
    (again.directory / sample_jobs.SAID).write_text(sample_jobs.BEFORE)
    relative = Path(os.path.relpath(runs / "new" / "seed-0"))  # as an experiment's are
    launched = [
        Job("fails", runs / "fails", sample_jobs.fail, {}),
        Job("dies", runs / "dies", sample_jobs.die, {"place": str(folder)}),
        Job("new/seed-0", relative, sample_jobs.write, _ARGUMENTS),
        again,
    ]
    left = [*launched]
    with closing(_launched(label, launcher, launched)) as given:
        for ended in given:
            _refuse_unfit(label, ended, launched, left)
            left.remove(ended.job)
            _refuse_wrong_end(label, ended)
    if left:
        names = ", ".join(job.name for job in left)
        advice = (
            "give every job once; one that raises or whose process dies is given with an error, and stops no other"
        )
        raise ConformanceError(f"{label}.launch came to its end without {names}; {advice}")


def _launches_nothing(label: str, launcher: Launcher, _: Path) -> None:
    with closing(_launched(label, launcher, [])) as given:
        for ended in given:
            raise ConformanceError(f"{label}.launch([]) gave {ended!r:.200}; where there are no jobs, give nothing")


def _stops_when_closed(label: str, launcher: Launcher, folder: Path) -> None:
    first = Job("first", folder / "runs" / "first", sample_jobs.meet, {"place": str(folder), "seconds": _ROOM})
    waiting = [_waiting(name, folder) for name in ("second", "third", "fourth")]
    with closing(_launched(label, launcher, [first, *waiting])) as given:
        for ended in given:
            _refuse_failed(label, ended)
            break
    _refuse_unsaved(label, "its iterator was closed", waiting, folder)


def _stops_when_interrupted(label: str, launcher: Launcher, folder: Path) -> None:
    """Interrupt the iterator as `toolkit experiment` is where it gets a signal."""
    main = threading.main_thread()
    if threading.current_thread() is not main or not hasattr(signal, "pthread_kill"):
        return
    waiting, is_over = _waiting("waits", folder), threading.Event()

    def interrupt() -> None:
        while not is_over.wait(0.02):
            if sample_jobs.began(folder, waiting.name).exists():
                signal.pthread_kill(main.ident or 0, signal.SIGTERM)
                return

    watcher = threading.Thread(target=interrupt)
    with SignalGuard(defer_first=False).installed(), closing(_launched(label, launcher, [waiting])) as given:
        watcher.start()
        try:
            seen = f"gave {next(given, None)!r:.200}"
        except InterruptedTraining:
            seen = ""
        except (SystemExit, KeyboardInterrupt) as error:
            seen = f"raised {describe_error(error)}"
        finally:
            is_over.set()
            watcher.join()
    if seen:
        advice = "let it out, and leave the handlers of signals as they are"
        raise ConformanceError(f"{label}.launch {seen} where an exception was raised in it by a signal; {advice}")
    _refuse_unsaved(label, "an exception was raised in it by a signal", [waiting], folder)


def _waiting(name: str, folder: Path) -> Job:
    return Job(name, folder / "runs" / name, sample_jobs.wait, {"place": str(folder), "seconds": _PATIENCE})


def _launched(label: str, launcher: Launcher, launched: Sequence[Job]) -> Generator[Any, None, None]:
    """Give what a launcher gives; closed, close its iterator."""
    with called(f"{label}.launch", _ERRORS, ToolkitError):
        found: Any = launcher.launch(launched)
        if not (hasattr(found, "__next__") and hasattr(found, "close")):
            advice = "return an iterator with close(), as a generator is: yield each job when it has ended"
            raise ConformanceError(f"{label}.launch returned {found!r:.200}; {advice}")
        with closing(found):
            yield from found


def _refuse_unfit(label: str, ended: Any, launched: Sequence[Job], left: Sequence[Job]) -> None:
    """Refuse what is not the end of a job that is still to come."""
    if not isinstance(ended, Ended):
        raise ConformanceError(f"{label}.launch gave {ended!r:.200}; give Ended(job, error) when a job has ended")
    if ended.job not in launched:
        raise ConformanceError(f"{label}.launch gave {ended.job!r:.200}; give the job that was launched, as it was")
    if ended.job not in left:
        raise ConformanceError(f"{label}.launch gave {ended.job.name} twice; give every job once, at its end")
    error = ended.error
    if error is not None and not (isinstance(error, str) and len(error.splitlines()) == 1):
        advice = "give None, or one line, as toolkit.utils.errors.describe_error makes of an exception"
        raise ConformanceError(f"{label}.launch gave {error!r:.200} as the error of {ended.job.name}; {advice}")


def _refuse_wrong_end(label: str, ended: Ended) -> None:
    """Refuse an end that is not what its job came to; one whose process died may have been called again."""
    job, said = ended.job, ended.job.directory / sample_jobs.SAID
    if job.function is sample_jobs.write:
        _refuse_failed(label, ended)
        _refuse_wrong_file(label, job, said.read_text() if said.exists() else None)
    elif job.function is sample_jobs.fail and "no luck" not in (ended.error or ""):
        seen = f"gave {ended.error!r} as the error of {job.name}, which raised NoLuckError: no luck"
        raise ConformanceError(f"{label}.launch {seen}; {_ERRORS}")
    elif job.function is sample_jobs.die and ended.error is None and not said.exists():
        seen = f"gave {job.name} without an error, and its process had died"
        raise ConformanceError(f"{label}.launch {seen}; {_ERRORS}")


def _refuse_wrong_file(label: str, job: Job, text: str | None) -> None:
    """Refuse what is not one call after those from before."""
    if text is None:
        advice = "what a job writes is in its directory, of this machine, when it is given; the path may be relative"
        raise ConformanceError(f"{label}.launch gave {job.name}, and the file it wrote is not there; {advice}")
    line = json.dumps(job.arguments["said"])
    expected = (sample_jobs.BEFORE if job.name == _AGAIN else "") + line
    if text != expected:
        advice = (
            "a job that is launched again goes on from what is in its directory, and is called once if it does not die"
        )
        raise ConformanceError(f"{label}.launch left {text!r:.300} of {job.name}, not {expected!r}; {advice}")


def _refuse_failed(label: str, ended: Ended) -> None:
    if ended.error is not None:
        advice = (
            "call function(directory, **arguments) in the main thread of another process; neither the directory nor "
            "its parents need exist"
        )
        raise ConformanceError(f"{label}.launch gave {ended.job.name} with the error {ended.error!r:.600}; {advice}")


def _refuse_unsaved(label: str, why: str, waiting: Sequence[Job], folder: Path) -> None:
    """Refuse jobs that were at work, and have not saved what they would at SIGTERM."""
    begun = [job for job in waiting if sample_jobs.began(folder, job.name).exists()]
    if not all((job.directory / sample_jobs.SAVED).exists() for job in begun):
        seen = f"was over while a job was at work, or had been ended before it could save: {why}"
        raise ConformanceError(f"{label}.launch {seen}; {_STOP}")
