"""Ctrl-C, SIGTERM and a closed terminal, put off until training stands where it can be saved."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from toolkit.utils import processes

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class InterruptedTraining(BaseException):
    """Training was told to stop; a ``BaseException``, as ``KeyboardInterrupt``, so that nothing else catches it.

    :param signal: the number of the signal that told it
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class SignalGuard:
    """What signals have come, while :meth:`installed` is entered.

    :param put_off: whether the first one waits for :meth:`raise_pending`; a second never does
    :ivar pending: the first that has come
    """

    def __init__(self, put_off: bool) -> None:
        self._put_off = put_off
        self.pending: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals that end a process; outside of the main thread, which alone gets them, do nothing.

        Whoever took them before knows afterwards what has come.
        """
        try:
            with processes.handled(_signals(), self._came):
                yield
        finally:
            self._pass_on()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let no further signal keep the end of a run from being written down."""
        with processes.handled(_signals(), self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number

    def _came(self, number: int, frame: FrameType | None) -> None:
        can_wait = self._put_off and self.pending is None
        self._note(number, frame)
        if not can_wait:
            raise InterruptedTraining(number)
        logging.getLogger("toolkit").warning("stopping where training can be saved; once more stops it at once")

    def _pass_on(self) -> None:
        if self.pending is not None:
            before = getattr(signal.getsignal(self.pending), "__self__", None)
            if isinstance(before, SignalGuard):
                before._note(self.pending, None)

    def raise_pending(self) -> None:
        """Stop if a signal has come.

        :raises InterruptedTraining: then
        """
        if self.pending is not None:
            raise InterruptedTraining(self.pending)


def _signals() -> list[int]:
    numbers: list[int] = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
