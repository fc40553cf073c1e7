"""A launcher that calls jobs in its own process, which saves tests the start of others. No real launcher may do so."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from toolkit import Ended, Job, Launcher
from toolkit.utils.errors import describe_error


class InProcessLauncher(Launcher):
    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        for job in jobs:
            try:
                job.function(job.directory, **job.arguments)
                yield Ended(job, None)
            except Exception as error:
                yield Ended(job, describe_error(error))
