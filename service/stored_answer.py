"""Answers that are kept to be given again, and the bounded store of those that belong to idempotency keys."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

ENTRY_BYTES = 512  # of an entry without its answer
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


@dataclass(eq=False)
class _Owner(Generic[Key]):
    keys: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    nbytes: int = 0


class BoundedStore(Generic[Key, Value]):
    """A mapping of bounded size and age. The oldest use of the owner that holds most goes first.

    Args:
        max_bytes: of all values together.
        seconds: that a value is kept.
        clock: seconds.
    """

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._seconds, self._clock = max_bytes, seconds, clock
        self._entries: dict[Key, tuple[Value, int, float, Hashable]] = {}
        self._owners: dict[Hashable, _Owner[Key]] = {}
        self.nbytes = 0

    def get(self, key: Key) -> tuple[Value, float] | None:
        """Return a value and its age in seconds, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, _, since, owner = entry
        age = self._clock() - since
        if age >= self._seconds:
            self.drop(key)
            return None
        self._owners[owner].keys.move_to_end(key)
        return value, age

    def put(self, key: Key, value: Value, nbytes: int, owner: Hashable = None) -> bool:
        """Keep a value of an owner; return False for one that is too large to be kept."""
        self.drop(key)
        if nbytes * LARGEST_SHARE > self._max_bytes:
            return False
        self._entries[key] = value, nbytes, self._clock(), owner
        holder = self._owners.setdefault(owner, _Owner())
        holder.keys[key] = None
        holder.nbytes += nbytes
        self.nbytes += nbytes
        while self.nbytes > self._max_bytes:
            largest = max(self._owners.values(), key=lambda owner: owner.nbytes)
            self.drop(next(iter(largest.keys)))
        return True

    def drop(self, key: Key) -> None:
        """Forget a value, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        _, nbytes, _, owner = entry
        holder = self._owners[owner]
        del holder.keys[key]
        holder.nbytes -= nbytes
        self.nbytes -= nbytes
        if not holder.keys:
            del self._owners[owner]


Begun = StoredAnswer | int | Literal["conflict", "in-progress"]


class KeyedAnswers(Protocol):
    """The answers of requests with an idempotency key, shared by all who answer."""

    async def begin(self, key: str, fingerprint: bytes, seconds: float) -> Begun:
        """Return the answer of a request that was answered before, or take it on.

        Args:
            key: of the request, after its caller's name and a space.
            fingerprint: of its content.
            seconds: after which a request that was taken on counts as lost, unless it is renewed.
        Returns:
            the answer; or a ticket for `finish`; or "conflict" for a key that another content had, or "in-progress".
        """
        ...

    async def renew(self, key: str, ticket: int, seconds: float) -> None:
        """Say that a request that was taken on is worked on, and may be for so long again."""
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

    async def renew(self, key: str, ticket: int, seconds: float) -> None:
        """Say that a request that was taken on is worked on; as `KeyedAnswers`."""
        fingerprint, current, _ = self._running.get(key, (b"", None, 0.0))
        if current == ticket:
            self._running[key] = fingerprint, ticket, self._clock() + seconds

    async def finish(self, key: str, ticket: int, answer: StoredAnswer | None) -> None:
        """Keep the answer of a request that was taken on, unless it counts as lost meanwhile; as `KeyedAnswers`."""
        fingerprint, current, _ = self._running.get(key, (b"", None, 0.0))
        if current != ticket:
            return
        del self._running[key]
        if answer is not None:
            owner, _, _ = key.rpartition(" ")
            self._done.put(key, (fingerprint, answer), answer.nbytes + len(key), owner)
