"""Processes of our own: how they are started, and how they have ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """Put signals off, whichever thread gets them; processes that are started meanwhile do so until they change it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would let signals through again
    numbers = {getattr(signal, name) for name in names}
    with _handled_later(numbers):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled_later(numbers: Iterable[int]) -> Iterator[None]:
    """Call handlers afterwards: the mask is this thread's, and Python calls them here if another gets the signal."""
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    came: list[int] = []
    try:
        with handled(handlers, lambda number, _: came.append(number)):
            yield
    finally:
        for number in came:
            handlers[number](number, None)


@contextmanager
def handled(numbers: Iterable[int], handler: signal._HANDLER) -> Iterator[None]:
    """Handle signals so; outside of the main thread they are nobody's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as before:  # which puts back every handler even if one of them raises meanwhile
        for number in numbers:
            before.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, handler)
        yield


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
