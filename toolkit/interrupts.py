"""Ctrl-C, SIGTERM and a closed terminal, put off until training stands where it can be saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class InterruptedTraining(BaseException):
    """Training was told to stop; a ``BaseException``, as ``KeyboardInterrupt``, so that nothing else catches it.

    :param signal: the number of the signal that told it
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class Interrupts:
    """What signals have come, while :meth:`heeded` is entered.

    :param put_off: whether the first one waits for :meth:`raise_pending`; a second never does
    """

    def __init__(self, put_off: bool) -> None:
        self._put_off = put_off
        self.pending: int | None = None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take the signals that end a process; outside of the main thread, which alone gets them, do nothing."""
        heeded = [number for number in _signals() if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
        with _handled(heeded, self._came):
            yield

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None or not self._put_off:
            raise InterruptedTraining(number)
        self.pending = number
        logging.getLogger("toolkit").warning("stopping where training can be saved; once more stops it at once")

    def raise_pending(self) -> None:
        """Stop if a signal has come.

        :raises InterruptedTraining: then
        """
        if self.pending is not None:
            raise InterruptedTraining(self.pending)


@contextmanager
def ignored() -> Iterator[None]:
    """Let no further signal keep the end of a run from being written down."""
    with _handled(_signals(), signal.SIG_IGN):
        yield


def _signals() -> list[int]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def _handled(numbers: list[int], handler: signal._HANDLER) -> Iterator[None]:
    """Handle signals so; outside of the main thread they are nobody's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
