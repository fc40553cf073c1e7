"""Ctrl-C, SIGTERM and SIGHUP: training defers them until it can be saved, and other commands clean up first."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from toolkit.utils import processes
from toolkit.utils.display import is_notebook

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Interrupted(BaseException):
    """A signal ends what runs; like ``KeyboardInterrupt`` a ``BaseException``, so that nothing else catches it.

    :param signal: the number of the signal
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class InterruptedTraining(Interrupted):
    """A signal stopped training."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise :class:`Interrupted` for SIGTERM and SIGHUP, which else end a process without its ``finally`` blocks.

    A second signal ends the process at once.
    """

    def receive(number: int, _: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_DFL)
        raise Interrupted(number)

    numbers = [number for number in _signals() if signal.getsignal(number) is signal.SIG_DFL]
    with processes.handle_signals(numbers, receive):
        yield


def deliver_again(number: int | None) -> None:
    """Deliver the signal that stopped training once more, now that the program's own handler is back.

    So Ctrl-C raises ``KeyboardInterrupt`` in the program that called, and SIGTERM ends it, as without training. A
    notebook gets the result instead.

    :param number: of the signal; None if none came
    """
    if number is not None and not is_notebook():
        signal.raise_signal(number)


class SignalGuard:
    """Note the signals that arrive while :meth:`installed` is active.

    :param defer_first: whether the first signal waits for :meth:`raise_pending`; a second one never waits
    :ivar pending: the first signal that arrived
    """

    def __init__(self, defer_first: bool) -> None:
        self._defer_first = defer_first
        self.pending: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals that end a process; outside of the main thread, which alone gets them, do nothing.

        An outer guard knows afterwards what arrived.
        """
        try:
            with processes.handle_signals(_signals(), self._receive):
                yield
        finally:
            self._inform_outer_guard()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let no signal interrupt what writes the end of a run."""
        with processes.handle_signals(_signals(), self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        can_wait = self._defer_first and self.pending is None
        self._note(number, frame)
        if not can_wait:
            raise InterruptedTraining(number)
        logging.getLogger("toolkit").warning("stopping at the next snapshot; a second signal stops at once")

    def _inform_outer_guard(self) -> None:
        if self.pending is not None:
            outer = getattr(signal.getsignal(self.pending), "__self__", None)
            if isinstance(outer, SignalGuard):
                outer._note(self.pending, None)

    def raise_pending(self) -> None:
        """Stop training if a signal has arrived.

        :raises InterruptedTraining: then
        """
        if self.pending is not None:
            raise InterruptedTraining(self.pending)


def _signals() -> list[int]:
    numbers: list[int] = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
