"""A launcher that calls functions in the process it is in, which no launcher should."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from toolkit import Ended, Launcher
from toolkit.experiments.launcher import Job
from toolkit.utils.errors import describe_error


class Here(Launcher):
    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        for job in jobs:
            try:
                job.function(job.directory, **job.arguments)
                yield Ended(job, None)
            except Exception as error:
                yield Ended(job, describe_error(error))
