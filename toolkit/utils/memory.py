"""Asking for no more memory than the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OF_THE_PROCESS = Path("/proc/self/statm")
_OF_THE_CONTAINER = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def installed_memory() -> int:
    """Return the bytes of memory that this machine has, or that its container may use if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _OF_THE_CONTAINER:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no container of that kind, or one without a limit ("max")
            continue
    return min(limits)


@contextmanager
def no_more_than_installed() -> Iterator[None]:
    """Let an allocation that the machine's memory cannot hold fail, where Linux would grant it.

    It grants memory as address space; a network that is then written into it starts the swapping, or gets the process
    killed. What the process holds already does not count, so that only what can never fit is refused. On other
    systems this does nothing.
    """
    if not _OF_THE_PROCESS.exists():
        yield
        return
    import resource

    held = int(_OF_THE_PROCESS.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = [limit for limit in (soft, hard, held + installed_memory()) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_shortage(error: BaseException) -> bool:
    """Say whether an exception means that there was not enough memory; torch has none of its own for that."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "bad_alloc")
    )
