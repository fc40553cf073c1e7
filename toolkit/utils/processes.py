"""The toolkit's own processes: how they start, which signals they get, how they ended, and their CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpu_name() -> str | None:
    """Return the name of the CPU; ``None`` if the system has no ``/proc/cpuinfo``, or that does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def start_context(preload: Sequence[str]) -> BaseContext:
    """Return the ``multiprocessing`` context that starts clean processes: a fork server if possible, else spawn.

    :param preload: modules that take seconds to import; the fork server imports them once, unless it has started
        already
    """
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    context.set_forkserver_preload([*preload])
    return context


@contextmanager
def block_signals(*names: str) -> Iterator[None]:
    """Defer signals, whichever thread gets them; processes that start meanwhile block them until they change that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would unblock signals
    numbers = {getattr(signal, name) for name in names}
    with _defer_handlers(numbers):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _defer_handlers(numbers: Iterable[int]) -> Iterator[None]:
    """Call handlers afterwards: the mask is this thread's, but Python runs handlers here if another thread is hit."""
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    received: list[int] = []
    try:
        with handle_signals(handlers, lambda number, _: received.append(number)):
            yield
    finally:
        for number in received:
            handlers[number](number, None)


@contextmanager
def handle_signals(numbers: Iterable[int], handler: signal._HANDLER) -> Iterator[None]:
    """Install a signal handler; outside of the main thread this does nothing, because Python cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as restore:  # restores every handler even if one of them raises meanwhile
        for number in numbers:
            restore.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, handler)
        yield


def describe_exit(code: int) -> str:
    """Return how a process ended, in words.

    :param code: its exit status, or minus the number of the signal that killed it
    """
    return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
