"""Answers that are kept to be given again, and the bounded store of those that belong to idempotency keys."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

ENTRY_BYTES = 512  # of an entry, beside its answer
PRUNE_ENTRIES = 1024  # in work, of which those that were lost are then forgotten
LARGEST_SHARE = 8  # of the whole, that one answer may take

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class StoredAnswer:
    """A whole answer: its status, its headers and its body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def nbytes(self) -> int:
        """Return the memory that it takes."""
        return ENTRY_BYTES + len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class BoundedStore(Generic[Key, Value]):
    """A mapping of bounded size and age, whose oldest use goes first.

    Args:
        max_bytes: of all values together.
        seconds: that a value is kept.
        clock: seconds.
    """

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._seconds, self._clock = max_bytes, seconds, clock
        self._entries: OrderedDict[Key, tuple[Value, int, float]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Key) -> tuple[Value, float] | None:
        """Return a value and its age in seconds, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, _, since = entry
        age = self._clock() - since
        if age >= self._seconds:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return value, age

    def put(self, key: Key, value: Value, nbytes: int) -> bool:
        """Keep a value; return False for one that is too large to be kept."""
        self.drop(key)
        if nbytes * LARGEST_SHARE > self._max_bytes:
            return False
        self._entries[key] = value, nbytes, self._clock()
        self.nbytes += nbytes
        while self.nbytes > self._max_bytes:
            self.drop(next(iter(self._entries)))
        return True

    def drop(self, key: Key) -> None:
        """Forget a value, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.nbytes -= entry[1]


Begun = StoredAnswer | int | Literal["conflict", "in-progress"]


class KeyedAnswers(Protocol):
    """The answers of requests with an idempotency key, shared by all who answer."""

    async def begin(self, key: str, fingerprint: bytes, seconds: float) -> Begun:
        """Return the answer of a request that was answered before, or take it on.

        Args:
            key: of the request, with its caller's name.
            fingerprint: of its content.
            seconds: after which a request that was taken on counts as lost.
        Returns:
            the answer; or a ticket for `finish`; or "conflict" for a key that another content had, or "in-progress".
        """
        ...

    async def finish(self, key: str, ticket: int, answer: StoredAnswer | None) -> None:
        """Keep the answer of a request that was taken on; None gives its key free."""
        ...


class LocalKeyedAnswers:
    """The `KeyedAnswers` of one process.

    Args:
        max_bytes: of all answers together.
        seconds: that an answer is kept.
        clock: seconds.
    """

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: BoundedStore[str, tuple[bytes, StoredAnswer]] = BoundedStore(max_bytes, seconds, clock)
        self._running: dict[str, tuple[bytes, int, float]] = {}
        self._prune_at = PRUNE_ENTRIES
        self._tickets = itertools.count()

    async def begin(self, key: str, fingerprint: bytes, seconds: float) -> Begun:
        """Return the answer of a request that was answered before, or take it on; as `KeyedAnswers`."""
        if (found := self._done.get(key)) is not None:
            (known, answer), _ = found
            return answer if known == fingerprint else "conflict"
        now = self._clock()
        if key in self._running:
            known, _, lost = self._running[key]
            if now < lost:
                return "in-progress" if known == fingerprint else "conflict"
        if len(self._running) >= self._prune_at:
            self._running = {name: entry for name, entry in self._running.items() if now < entry[2]}
            self._prune_at = max(PRUNE_ENTRIES, 2 * len(self._running))
        ticket = next(self._tickets)
        self._running[key] = fingerprint, ticket, now + seconds
        return ticket

    async def finish(self, key: str, ticket: int, answer: StoredAnswer | None) -> None:
        """Keep the answer of a request that was taken on, unless it counts as lost meanwhile; as `KeyedAnswers`."""
        fingerprint, current, _ = self._running.get(key, (b"", None, 0.0))
        if current != ticket:
            return
        del self._running[key]
        if answer is not None:
            self._done.put(key, (fingerprint, answer), answer.nbytes + len(key))
