"""What runs jobs in processes of their own, on this machine or others: the base class of launchers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_ERROR = 4_000  # characters, of a job


@dataclass(frozen=True)
class Job:
    """A call to make in another process, as ``function(directory, **arguments)``.

    A job may be called again after its process has died, elsewhere too: it goes on from what it has left in its
    directory.

    :param name: unique among the jobs that are launched together
    :param directory: all that it writes is in here; its parent need not exist
    :param function: of a module that the other process can import
    :param arguments: plain data
    """

    name: str
    directory: Path
    function: Callable[..., None]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a job has ended.

    :param error: why it failed, in one line; None if it did not
    """

    job: Job
    error: str | None


class Launcher(ABC):
    """Runs jobs, as many at once as there is room for.

    What a job prints may be kept beside its directory, in ``log-<directory>.txt``.
    """

    def prepare(self) -> None:  # noqa: B027 - there may be nothing to do
        """Get ready, in the background if that takes long, before it is known whether there is anything to launch.

        :raises ToolkitError: if there is nowhere to run jobs
        """

    @abstractmethod
    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order, and give each when it has ended; a job that fails stops no other.

        Jobs are called with ``SIGTERM`` where they have to stop early, because the iterator is closed or an exception
        (``KeyboardInterrupt``, say) is raised in it, and they are waited for.

        :raises ToolkitError: if there is nowhere to run them
        """
