"""The bounds of what one ingress process works on at a time, which refuse before work begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.drain_rate import DrainRate, retry_after
from service.errors import ProblemError

STREAM_RETRY_SECONDS = 10.0  # nobody knows how long a film is


class Bound:
    """An amount that is held by requests, bounded, with the rate at which they let go of it.

    Args:
        limit: the most that is held at a time; one request that is alone may take more.
        clock: seconds.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit, self.held = limit, 0
        self._clock, self._rate, self._since = clock, DrainRate(), 0.0

    def fits(self, amount: int, mine: int = 0) -> bool:
        """Return whether a request that holds `mine` may take more."""
        return self.held <= mine or self.held + amount <= self.limit

    def take(self, amount: int) -> None:
        """Hold more."""
        if not self.held:
            self._since = self._clock()
        self.held += amount

    def give_back(self, amount: int) -> None:
        """Hold less."""
        if amount:
            now = self._clock()
            self._rate.add(amount, now - self._since)
            self._since = now
            self.held -= amount

    def refusal(self, detail: str, amount: int) -> ProblemError:
        """Return the refusal of a request for `amount` more."""
        excess = self.held + amount - self.limit
        wait = retry_after(self._rate.seconds(max(excess, self.held // 2)))
        return ProblemError("overloaded", detail, self.limit, self.held + amount, [], wait)


class Place:
    """The place of one admitted request, and the bytes of its body."""

    def __init__(self, bodies: Bound) -> None:
        self._bodies, self.held = bodies, 0

    def expect(self, size: int) -> None:
        """Check that a body of this size would fit, before it is read.

        Raises:
            ProblemError: `overloaded`.
        """
        if not self._bodies.fits(size, self.held):
            detail = f"The service holds {self._bodies.held} bytes of other bodies already. Try again later."
            raise self._bodies.refusal(detail, size)

    def take(self, size: int) -> None:
        """Hold that many bytes more; errors as `expect`."""
        self.expect(size)
        self._bodies.take(size)
        self.held += size


class Admission:
    """Bounds of requests and of their bodies, so that a crowd exhausts neither memory nor the places of the proxy.

    Args:
        requests: at a time.
        body_bytes: of all of them together.
        clock: seconds.
        streams: at a time.
    """

    def __init__(
        self, requests: int, body_bytes: int, clock: Callable[[], float] = time.monotonic, streams: int = 1
    ) -> None:
        self._requests, self._bodies = Bound(requests, clock), Bound(body_bytes, clock)
        self._streams, self._max_streams = 0, streams

    @contextmanager
    def admitted(self) -> Iterator[Place]:
        """Yield a place, and give it and its bytes back at the end.

        Raises:
            ProblemError: `overloaded`.
        """
        if not self._requests.fits(1):
            detail = f"The service works on {self._requests.held} requests already. Try again later."
            raise self._requests.refusal(detail, 1)
        self._requests.take(1)
        place = Place(self._bodies)
        try:
            yield place
        finally:
            self._bodies.give_back(place.held)
            self._requests.give_back(1)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold a place among the requests and among the streams.

        Raises:
            ProblemError: `overloaded`.
        """
        if self._streams == self._max_streams:
            detail = f"The service works on {self._streams} streams already. Try again later."
            raise ProblemError("overloaded", detail, self._max_streams, retry_after_seconds=STREAM_RETRY_SECONDS)
        with self.admitted():
            self._streams += 1
            try:
                yield
            finally:
                self._streams -= 1
