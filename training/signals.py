"""Stop requests: a step is finished first, work that can be left undone is not."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class _InterruptedError(Exception):
    """A stop request came during work that can be left undone."""


class StopRequests:
    """SIGINT and SIGTERM so far.

    Attributes:
        received: there was one.
    """

    def __init__(self) -> None:
        self.received = self._interrupts = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.received = True
        if self._interrupts:
            self._interrupts = False
            raise _InterruptedError

    def unless_stopped(self, work: Callable[[], None]) -> None:
        """Do work that can be left undone: a stop request ends it, and keeps it from beginning."""
        with suppress(_InterruptedError):
            self._interrupts = True
            if not self.received:
                work()
            self._interrupts = False


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Take SIGINT and SIGTERM while the context lasts, so that no step is interrupted."""
    requests = StopRequests()
    before = {number: signal.signal(number, requests.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
