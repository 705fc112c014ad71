"""The bounds of what one ingress process works on at a time, which refuse before work begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from service.api.transfer import Transfer, slowest
from service.drain_rate import DrainRate, retry_after
from service.errors import ProblemError
from service.settings import Settings

STREAM_RETRY_SECONDS = 10.0  # nobody knows how long a video is
LONG_SHARE = 0.75  # of the places and of the bytes that work of minutes may hold: work of seconds finds the rest free
SLOW_BODY_SECONDS = 5.0  # a line may stall for so long before its sender is called slow


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


class Place(Transfer):
    """The place of one request, and its body.

    Args:
        bodies: the bounds of the bytes of all bodies.
        clock: seconds.
        admit: takes a place among the requests that are worked on, once the body is there; None if it has one.
    """

    def __init__(
        self, bodies: Sequence[Bound], clock: Callable[[], float], admit: Callable[[], None] | None = None
    ) -> None:
        super().__init__(clock)
        self._bodies, self._admit = bodies, admit

    def arrived(self) -> None:
        """Note that the body is there.

        Raises:
            ProblemError: `overloaded`.
        """
        if self._admit is not None:
            self._admit()

    def expect(self, size: int) -> None:
        """Check that a body of this size would fit, before it is read.

        Raises:
            ProblemError: `overloaded`.
        """
        for bound in self._bodies:
            if not bound.fits(size, self.size):
                detail = f"The service holds {bound.held} bytes of other bodies already. Try again later."
                raise bound.refusal(detail, size)

    def take(self, size: int) -> None:
        """Hold that many bytes more; errors as `expect`."""
        self.expect(size)
        for bound in self._bodies:
            bound.take(size)
        self.size += size


class StreamPlace(Transfer):
    """The place of one stream. Its pace is that of its caller, who sends and reads, while nothing else held it up.

    Args:
        caller: whose stream it is.
        clock: seconds.

    Attributes:
        gave_way: whether it made place for another one.
    """

    def __init__(self, caller: str, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.caller, self.gave_way = caller, False
        self._waited = 0.0
        self._waits: list[Callable[[], None]] = []

    @contextmanager
    def waiting(self, give_way: Callable[[], None]) -> Iterator[None]:
        """Note that its caller is waited for, on one side or on both, while the context lasts."""
        if not self._waits:
            self.since, self.give_way = self._clock(), self._end_waits
        self._waits.append(give_way)
        try:
            yield
        finally:
            self._waits.remove(give_way)
            if not self._waits:
                self._waited += self._clock() - self.since
                self.give_way = None

    def pace(self) -> float:
        """Return the bytes for each second in which its caller was waited for, infinite in the first ones."""
        waited = self._waited + (self._clock() - self.since if self._waits else 0.0)
        return self.size / waited if waited >= SLOW_BODY_SECONDS else math.inf

    def _end_waits(self) -> None:
        for give_way in [*self._waits]:
            give_way()


class Admission:
    """Bounds of requests and of their bodies, so that a crowd exhausts neither memory nor the places of the proxy.

    Args:
        settings: the bounds.
        clock: seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._requests = Bound(settings.max_inflight_requests, clock)
        self._bodies = Bound(settings.held_body_bytes, clock)
        self._long_requests = Bound(int(LONG_SHARE * settings.max_inflight_requests), clock)
        self._long_bodies = Bound(int(LONG_SHARE * settings.held_body_bytes), clock)
        self._streams: list[StreamPlace] = []
        self._arriving: set[Place] = set()

    @contextmanager
    def receiving(self, long: bool = False) -> Iterator[Place]:
        """Yield a place for a body that is on its way; it becomes one among the requests when the body has arrived.

        Where too many are on their way, the slowest gives way.

        Args:
            long: whether its work may take minutes.

        Raises:
            ProblemError: `overloaded`.
        """
        requests = (self._requests, self._long_requests) if long else (self._requests,)
        bodies = (self._bodies, self._long_bodies) if long else (self._bodies,)
        _check(requests)
        if len(self._arriving) >= self._settings.max_arriving_requests:
            self._drop_slowest()
        admitted = False

        def admit() -> None:
            nonlocal admitted
            self._arriving.discard(place)
            _check(requests)
            for bound in requests:
                bound.take(1)
            admitted = True

        place = Place(bodies, self._clock, admit)
        self._arriving.add(place)
        try:
            yield place
        finally:
            self._arriving.discard(place)
            for bound in bodies:
                bound.give_back(place.size)
            if admitted:
                for bound in requests:
                    bound.give_back(1)

    @contextmanager
    def admitted(self) -> Iterator[Place]:
        """Yield a place, and give it and its bytes back at the end.

        Raises:
            ProblemError: `overloaded`.
        """
        _check((self._requests,))
        self._requests.take(1)
        place = Place((self._bodies,), self._clock)
        try:
            yield place
        finally:
            self._bodies.give_back(place.size)
            self._requests.give_back(1)

    @contextmanager
    def stream(self, caller: str = "") -> Iterator[StreamPlace]:
        """Hold a place among the requests and among the streams. Who holds one leaves the last place to others.

        Where all are taken, the one with the slowest caller gives way, if that is slow at all.

        Raises:
            ProblemError: `overloaded`.
        """
        held, mine = len(self._streams), sum(place.caller == caller for place in self._streams)
        most = self._settings.max_streams - bool(mine)
        slow = self._slowest_stream(caller if mine else None) if held == most else None
        if held >= most and slow is None:
            whose = f", {mine} of them the caller's" if mine else ""
            detail = f"The service works on {held} streams already{whose}. Try again later."
            raise ProblemError("overloaded", detail, most, held + 1, [], STREAM_RETRY_SECONDS)
        with self.admitted():
            if slow is not None:
                self._end_stream(slow)
            place = StreamPlace(caller, self._clock)
            self._streams.append(place)
            try:
                yield place
            finally:
                if not place.gave_way:
                    self._streams.remove(place)

    def _slowest_stream(self, caller: str | None) -> StreamPlace | None:
        """Return the stream whose caller is slowest, of one caller if it is given; None if none is slow."""
        streams = [place for place in self._streams if caller in (None, place.caller)]
        return slowest(streams, self._settings.limits.body_bytes_per_second)

    def _end_stream(self, place: StreamPlace) -> None:
        self._streams.remove(place)
        place.gave_way = True
        place.end()

    def _drop_slowest(self) -> None:
        place, held = slowest(self._arriving), len(self._arriving)
        if place is None:
            detail = f"The service reads {held} bodies already. Try again later."
            raise ProblemError("overloaded", detail, self._settings.max_arriving_requests, held + 1, [], 1.0)
        self._arriving.discard(place)
        place.end()


def _check(requests: Sequence[Bound]) -> None:
    for bound in requests:
        if not bound.fits(1):
            raise bound.refusal(f"The service works on {bound.held} requests already. Try again later.", 1)
