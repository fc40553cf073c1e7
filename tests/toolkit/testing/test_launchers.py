"""`check_launcher` names the broken promise of a launcher."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from dataclasses import replace

import jobs
import pytest
from in_process_launcher import InProcessLauncher

from toolkit.experiments.launcher import Ended, Launcher
from toolkit.testing import ConformanceError, check_launcher
from toolkit.utils.signals import InterruptedTraining
from toolkit_plugins.local_launcher import LocalLauncher


class ChangedResults(LocalLauncher):
    """Keeps its promises. The other launchers break one each."""

    def __init__(self):
        super().__init__(2)

    def launch(self, jobs):
        for ended in super().launch(jobs):
            yield from self.changed(ended)

    def changed(self, ended):
        return [ended]


class YieldsText(ChangedResults):
    def changed(self, ended):
        return [ended.job.name]


class YieldsTwice(ChangedResults):
    def changed(self, ended):
        return [ended, ended]


class YieldsAnotherJob(ChangedResults):
    def changed(self, ended):
        return [Ended(replace(ended.job, arguments={"more": 1}), ended.error)]


class DropsFailedJobs(ChangedResults):
    def changed(self, ended):
        return [] if ended.error else [ended]


class RaisesFirstError(ChangedResults):
    def changed(self, ended):
        if ended.error:
            raise ValueError(ended.error)
        return [ended]


class SwallowsErrors(ChangedResults):
    def changed(self, ended):
        return [Ended(ended.job, ended.error if "was killed" in (ended.error or "") else None)]


class SwallowsDeaths(ChangedResults):
    def changed(self, ended):
        return [Ended(ended.job, None if "was killed" in (ended.error or "") else ended.error)]


class HidesReason(ChangedResults):
    def changed(self, ended):
        return [Ended(ended.job, ended.error and "exit status 1")]


class ErrorInTwoLines(ChangedResults):
    def changed(self, ended):
        return [Ended(ended.job, ended.error and f"Traceback:\n{ended.error}")]


class LosesFiles(ChangedResults):
    def changed(self, ended):
        shutil.rmtree(ended.job.directory, ignore_errors=True)
        return [ended]


class EmptiesDirectories(ChangedResults):
    def launch(self, jobs):
        for job in jobs:
            shutil.rmtree(job.directory, ignore_errors=True)
        return super().launch(jobs)


class CallsTwice(ChangedResults):
    def launch(self, jobs):
        names = {ended.job.name for ended in super().launch(jobs)}
        return (ended for ended in super().launch(jobs) if ended.job.name in names)


class NeedsParentDirectory(ChangedResults):
    def launch(self, jobs):
        for job in jobs:
            (job.directory.parent / f"{job.directory.name}.lock").touch()
        return super().launch(jobs)


class ReturnsAList(ChangedResults):
    def launch(self, jobs):
        return [*super().launch(jobs)]


class CallsInThreads(ChangedResults):
    def launch(self, launched):
        jobs_by_name = {job.name: job for job in launched}
        inside = [replace(job, function=jobs.call_in_thread, arguments={"job": job}) for job in launched]
        for ended in super().launch(inside):
            yield Ended(jobs_by_name[ended.job.name], ended.error)


class FailsToPrepare(ChangedResults):
    def prepare(self):
        raise KeyError("PATH")


class YieldsWithoutJobs(ChangedResults):
    def launch(self, jobs):
        yield from super().launch(jobs)
        if not jobs:
            yield None


class LeavesJobsRunning(ChangedResults):
    def launch(self, jobs):
        self.launched = super().launch(jobs)
        while ended := next(self.launched, None):
            yield ended


class StopsOtherwise(ChangedResults):
    def launch(self, jobs):
        for ended in super().launch(jobs):
            try:
                yield ended
            except GeneratorExit:
                self.stop(multiprocessing.active_children())
                raise


class KillsJobs(StopsOtherwise):
    def stop(self, processes):
        for process in processes:
            process.kill()


class SignalsTwice(StopsOtherwise):
    def stop(self, processes):
        for _ in range(2):
            for process in processes:
                process.terminate()
            time.sleep(0.2)


class SwallowsInterrupts(ChangedResults):
    def launch(self, jobs):
        launched = super().launch(jobs)
        try:
            yield from launched
        except InterruptedTraining:
            return


BROKEN_LAUNCHERS: list[tuple[type[Launcher], str]] = [
    (FailsToPrepare, r"prepare raised KeyError: 'PATH' .*raise toolkit.ToolkitError if"),
    (ReturnsAList, r"launch returned \[Ended.*; return an iterator with close\(\)"),
    (YieldsText, r"launch yielded '.*'; yield Ended\(job, error\)"),
    (YieldsTwice, r"launch yielded .* twice; yield every job once"),
    (YieldsAnotherJob, r"launch yielded Job\(.*; yield the launched job"),
    (DropsFailedJobs, r"ended without fails, dies; yield every job once"),
    (RaisesFirstError, r"launch raised ValueError: .*; yield Ended\(job, error\) for a job that raises"),
    (SwallowsErrors, r"yielded None as the error of fails, which raised NoLuckError: no luck; yield Ended"),
    (HidesReason, r"yielded 'exit status 1' as the error of fails, which raised .*make the text in the job's process"),
    (SwallowsDeaths, r"yielded dies without an error, although its process died; yield Ended"),
    (ErrorInTwoLines, r"yielded 'Traceback:\\n.*' as the error of .*; pass None, or one line"),
    (LosesFiles, r"yielded (new|again)/seed-0, but its output file does not exist; a job's files"),
    (EmptiesDirectories, r"left '{.*}' of again/seed-0, not 'written by an earlier call\\n{.*}'; a job continues"),
    (CallsTwice, r"left .* of (new|again)/seed-0, not '.*{.*}'; .*is called once"),
    (NeedsParentDirectory, r"launch raised FileNotFoundError: .*seed-0.lock"),
    (InProcessLauncher, r"with the error 'RuntimeError: was called in the process that launches .*; call function"),
    (
        CallsInThreads,
        r"with the error 'RuntimeError: was called outside of the main thread.*; call function",
    ),
    (YieldsWithoutJobs, r"launch\(\[\]\) yielded None; yield nothing if there are no jobs"),
    (LeavesJobsRunning, r"ended when its iterator was closed, while a job was running.*send SIGTERM"),
    (KillsJobs, r"ended when its iterator was closed, .*before it had saved.*send SIGTERM"),
    (SignalsTwice, r"ended when its iterator was closed, .*before it had saved.*send SIGTERM once"),
    (SwallowsInterrupts, r"yielded None when a signal raised an exception in it; let the exception propagate"),
]


@pytest.mark.parametrize(("launcher", "message"), BROKEN_LAUNCHERS, ids=lambda part: getattr(part, "__name__", ""))
def test_broken_launcher_is_reported_with_advice(launcher: type[Launcher], message: str) -> None:
    with pytest.raises(ConformanceError, match=f"(?s){launcher.__name__}.*{message}"):
        check_launcher(launcher)
