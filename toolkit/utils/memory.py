"""Refuse allocations that cannot fit into the machine's memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROCESS_MEMORY = Path("/proc/self/statm")
_CONTAINER_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def installed_memory() -> int:
    """Return the bytes of memory of this machine, or of its container if that has a lower limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no container of that kind, or one without a limit ("max")
            continue
    return min(limits)


@contextmanager
def limit_memory_to_installed() -> Iterator[None]:
    """Let an allocation that exceeds the machine's memory fail, where Linux would grant it.

    Linux grants memory as address space; a network that is then written into it starts swapping, or gets the process
    killed. The process's present memory does not count, so only what can never fit is refused. On other systems this
    does nothing.
    """
    if not _PROCESS_MEMORY.exists():
        yield
        return
    import resource

    in_use = int(_PROCESS_MEMORY.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard, in_use + installed_memory()) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_memory_shortage(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out; torch has no exception of its own for that."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "bad_alloc")
    )
