"""The time that requests wait in a replica and for its tokenizers, by that of the last ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from service.drain_rate import retry_after
from service.errors import ProblemError

MEMORY_PIECES = 16  # after which an older wait counts a third
ALWAYS_TAKEN = 8  # requests: a wait among so few is that of the work itself, or of a busy machine
WORK = ("decode_ms", "compute_ms", "render_ms")  # notes of a request


class ExpectedWait:
    """The expected wait of a request, wherever it waits, and its bound.

    A tokenizer knows its queue. It does not see what waits for an event loop, its own or a replica's, or on the way.
    So each replica measures how long requests took beyond their own work, for each request that was there with them.

    Args:
        max_seconds: longest expected wait.
        clock: seconds.
    """

    def __init__(self, max_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_seconds, self._clock = max_seconds, clock
        self._held = 0
        self._wait_of_each = 0.0  # seconds for each request that is there

    def seconds(self) -> float:
        """Return the seconds that one more request would wait beyond its own work."""
        number = self._held + 1
        return self._wait_of_each * number if number > ALWAYS_TAKEN else 0.0

    def check(self) -> None:
        """Refuse a request that would wait for too long.

        Raises:
            ProblemError: `overloaded`.
        """
        wait = self.seconds()
        if wait > self._max_seconds:
            detail = f"The request would wait for {wait:.2f} s, and it may wait for {self._max_seconds:g} s."
            raise ProblemError("overloaded", detail, self._max_seconds, wait, [], retry_after(wait))

    @contextmanager
    def passing(self, notes: Mapping[str, Any]) -> Iterator[None]:
        """Count a request while the context lasts, and learn from its wait.

        Args:
            notes: of the request; at its end they hold the time of its work, unless none was done, and its positions
                once it was on its way to a tokenizer.
        """
        self._held += 1
        begun, number = self._clock(), self._held
        try:
            yield
        finally:
            self._held -= 1
            work = sum(notes.get(name, 0.0) for name in WORK) / 1000
            wait_of_each = max(0.0, self._clock() - begun - work) / max(number, ALWAYS_TAKEN)
            change = (wait_of_each - self._wait_of_each) / MEMORY_PIECES
            # Who expired, left or was refused on the way to a tokenizer has waited for so long at least.
            if "compute_ms" in notes or ("positions" in notes and change > 0):
                self._wait_of_each += change
