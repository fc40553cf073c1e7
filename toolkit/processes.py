"""Processes of our own: how they are started, and how they have ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context(preload: Sequence[str]) -> BaseContext:
    """Return what starts processes in which nothing runs yet: forked from one that has what they need, or new ones.

    :param preload: modules that take seconds to import, which are imported once, in the process that the others are
        forked from; unless that one has been started already
    """
    found = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    found.set_forkserver_preload([*preload])
    return found


@contextmanager
def blocked(*names: str) -> Iterator[None]:
    """Put signals off; processes that are started meanwhile do so too, until they change it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name) for name in names})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending(code: int) -> str:
    """Say how a process has ended.

    :param code: its exit status, or the number of the signal that killed it, negative
    """
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
