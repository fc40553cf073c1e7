"""Launchers run jobs in other processes, on this machine or others: their base class, and the jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

MAX_ERROR_LENGTH = 4_000  # characters of a job's error
_WITHOUT_COMPILER = ("double_dqn", "pqn")  # as long as their policies have plain optimizers


def list_slow_imports(algorithms: Iterable[str]) -> list[str]:
    """List the modules for :attr:`Launcher.slow_imports` of trainings with these algorithms."""
    needs_compiler = any(name not in _WITHOUT_COMPILER for name in algorithms)
    return ["toolkit.evaluation.preload_compiler"] if needs_compiler else []


@dataclass(frozen=True)
class Job:
    """A call ``function(directory, **arguments)`` for another process.

    A launcher may call a job again after its process has died, also on another machine. The job then continues from
    the files in its directory.

    :param name: unique among the jobs that are launched together
    :param directory: holds everything that the job writes; its parent need not exist
    :param function: a function of a module that the other process can import
    :param arguments: plain data
    """

    name: str
    directory: Path
    function: Callable[..., None]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """The end of a job.

    :param error: why it failed, in one line; ``None`` if it succeeded
    """

    job: Job
    error: str | None


class Launcher(ABC):
    """Base class of launchers: run jobs, as many at once as there is room for.

    A launcher may write what a job prints beside the job's directory, to ``log-<directory>.txt``.

    :cvar is_local: whether jobs run on this machine; their device is then checked before they start
    :ivar slow_imports: modules that the jobs will import and that take seconds, known before :meth:`prepare`; a
        launcher may import them once for all
    """

    is_local: ClassVar[bool] = False
    slow_imports: Sequence[str] = ()

    def prepare(self) -> None:  # noqa: B027 - there may be nothing to do
        """Get ready, before it is certain that there are jobs. Do what takes long in the background.

        :raises ToolkitError: if the launcher has nowhere to run jobs
        """

    @abstractmethod
    def launch(self, jobs: Sequence[Job]) -> Generator[Ended, None, None]:
        """Start jobs in their order and yield each one when it has ended. A job that fails stops no other.

        When the generator is closed, or an exception such as ``KeyboardInterrupt`` is raised in it, send ``SIGTERM``
        to the running jobs and wait for them.

        :raises ToolkitError: if the launcher has nowhere to run jobs
        """
