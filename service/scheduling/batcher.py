"""Batches of waiting items, in order: a state machine without threads, clocks or tensors of its own.

Items of equal key run together. Keys take turns (deficit round robin): on each visit a key earns one batch budget of
credit, and its head item runs as soon as the credit covers it, so neither a stream of images nor one long clip can
starve the other. Nothing waits for company: a batch is what has gathered while the previous one ran.

An item is admitted only if it can be expected to start in time: the rate at which items drained lately says when.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from service.drain_rate import DrainRate, retry_after
from service.errors import ProblemError

StopReason = Literal["drained", "count", "budget"]

MAX_RUNNING = 2
# A batch that takes longer hides what the host does between two, and what arrives during it should find an open batch.
AHEAD_SECONDS = 0.02
SHRUNKEN_KEYS = 256  # keys come from callers' shapes, so what is remembered of them is bounded


class Key(Protocol):
    """The key that items of one batch share: any immutable value, compared and hashed by its content."""

    @property
    def op(self) -> str:
        """Return the name of the operation, a label of metrics."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Item:
    """One request.

    Args:
        id: unique among the items of one batcher.
        key: what it may share a batch with.
        cost: latent positions, or another measure of work, at least 1.
        deadline: time after which it must not start, seconds on the caller's clock.
        payload: handed on untouched.
    """

    id: int
    key: Key
    cost: int
    deadline: float
    payload: Any = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Items of one key that run together; `stop_reason` says why there are no more of them."""

    key: Key
    items: tuple[Item, ...]
    cost: int
    stop_reason: StopReason
    started: float


@dataclass
class _Queue:
    items: dict[int, Item] = field(default_factory=dict)  # in order of arrival
    cost: int = 0
    credit: int = 0


class Batcher:
    """Queues per key and the choice of the next batch. A short batch has the next one queued behind it.

    Args:
        max_tokens: latent positions of one batch; a larger item runs alone.
        max_requests: items of one batch.
        max_queue_tokens: latent positions that may wait; an empty queue takes any item.
        max_queue_seconds: the longest expected wait of an item that others wait before.
    """

    def __init__(
        self, max_tokens: int, max_requests: int, max_queue_tokens: int, max_queue_seconds: float = math.inf
    ) -> None:
        if min(max_tokens, max_requests, max_queue_tokens, max_queue_seconds) <= 0:
            raise ValueError(
                f"Bounds must be positive: {max_tokens=} {max_requests=} {max_queue_tokens=} {max_queue_seconds=}."
            )
        self.max_tokens = max_tokens
        self.max_requests = max_requests
        self.max_queue_tokens = max_queue_tokens
        self.max_queue_seconds = max_queue_seconds
        self.queued_tokens = 0
        self.running: deque[Batch] = deque()  # in the order in which they end
        self._queues: dict[Key, _Queue] = {}  # only keys with items, and exactly the keys of the ring
        self._ring: deque[Key] = deque()
        self._keys: dict[int, Key] = {}  # item id -> key, for the items that wait
        self._budgets: dict[Key, int] = {}  # keys that ran out of memory at the full budget
        self._rate = DrainRate()
        self._completed = -math.inf
        self._none_before = math.inf  # no deadline is earlier; a queue is not searched for each batch

    @property
    def queued_requests(self) -> int:
        """Return the number of items that wait."""
        return len(self._keys)

    @property
    def earliest_deadline(self) -> float | None:
        """Return the earliest deadline of the items that wait, or None if none does."""
        deadlines = (item.deadline for queue in self._queues.values() for item in queue.items.values())
        return min(deadlines, default=None)

    def budget(self, key: Key) -> int:
        """Return the latent positions that a batch of `key` may hold now."""
        return self._budgets.get(key, self.max_tokens)

    def submit(self, item: Item, now: float) -> None:
        """Admit an item or refuse it at once.

        Raises:
            ProblemError: `overloaded`, with the time that the work before the item needs.
        """
        if item.id in self._keys or item.cost < 1:
            raise ValueError(f"Item {item.id} of cost {item.cost} is queued already or costs nothing.")
        wait = self.wait(item, now)
        if self._keys and self.queued_tokens + item.cost > self.max_queue_tokens:
            tokens = self.queued_tokens + item.cost
            raise ProblemError("overloaded", "The queue is full.", self.max_queue_tokens, tokens, [], retry_after(wait))
        patience = item.deadline - now
        if self._keys:
            patience = min(patience, self.max_queue_seconds)
        if wait is not None and wait > patience:
            detail = f"The request would wait for {wait:.1f} s, and it may wait for {max(0.0, patience):.1f} s."
            raise ProblemError("overloaded", detail, patience, wait, [], retry_after(wait))
        if item.key not in self._queues:
            self._queues[item.key] = _Queue()
            self._ring.append(item.key)
        queue = self._queues[item.key]
        queue.items[item.id] = item
        queue.cost += item.cost
        self._none_before = min(self._none_before, item.deadline)
        self._keys[item.id] = item.key
        self.queued_tokens += item.cost

    def cancel(self, item_id: int) -> bool:
        """Forget a waiting item; False if it does not wait (any more)."""
        if item_id not in self._keys:
            return False
        self._remove(item_id)
        return True

    def expire(self, now: float) -> list[Item]:
        """Take out and return the waiting items whose deadline has come."""
        if now < self._none_before:
            return []
        late = [item for queue in self._queues.values() for item in queue.items.values() if item.deadline <= now]
        for item in late:
            self._remove(item.id)
        earliest = self.earliest_deadline
        self._none_before = math.inf if earliest is None else earliest
        return late

    def next_batch(self, now: float) -> Batch | None:
        """Start the next batch, or None if nothing waits or enough runs.

        Call `expire` first; `complete` must follow, in the same order.
        """
        if self._is_busy():
            return None
        while self._ring:
            key = self._ring[0]
            self._ring.rotate(-1)
            queue = self._queues[key]
            queue.credit += self.max_tokens
            if next(iter(queue.items.values())).cost <= queue.credit:
                batch = self._form(key, queue, now)
                self.running.append(batch)
                return batch
        return None

    def complete(self, now: float) -> float:
        """Say that the first of the running batches has ended, well or not; return the time that it had, seconds."""
        if not self.running:
            raise RuntimeError("No batch is running.")
        batch = self.running.popleft()
        seconds = now - max(batch.started, self._completed)
        self._rate.add(batch.cost, seconds)
        self._completed = now
        if batch.key in self._budgets and batch.stop_reason == "budget":
            self._grow(batch.key)
        return seconds

    def shrink(self, key: Key, cost: int) -> None:
        """Halve the budget of `key` after a batch of `cost` did not fit into memory; success regrows it slowly."""
        self._budgets.pop(key, None)
        self._budgets[key] = max(1, cost // 2)
        if len(self._budgets) > SHRUNKEN_KEYS:
            del self._budgets[next(iter(self._budgets))]

    def wait(self, item: Item, now: float) -> float | None:
        """Return the seconds until the item would start, by the rate of the last batches; None before the first.

        Its own key goes before it; the others get as many turns as its key needs to reach it.
        """
        own = self._queues.get(item.key, _Queue())
        turns = max(
            math.ceil((own.cost + item.cost) / self.max_tokens), math.ceil((len(own.items) + 1) / self.max_requests)
        )
        others = sum(min(queue.cost, turns * self.max_tokens) for key, queue in self._queues.items() if key != item.key)
        wait = self._rate.seconds(own.cost + others)
        if wait is None or not self.running:
            return wait
        elapsed = now - max(self.running[0].started, self._completed)
        return wait + max(0.0, (self._running_seconds() or 0.0) - elapsed)

    def _is_busy(self) -> bool:
        if not self.running:
            return False
        seconds = self._running_seconds()
        return len(self.running) == MAX_RUNNING or seconds is None or seconds > AHEAD_SECONDS

    def _running_seconds(self) -> float | None:
        return self._rate.seconds(sum(batch.cost for batch in self.running))

    def _form(self, key: Key, queue: _Queue, now: float) -> Batch:
        budget, cost = self.budget(key), 0
        taken: list[Item] = []
        stop_reason: StopReason = "drained"
        for item in queue.items.values():
            if len(taken) == self.max_requests:
                stop_reason = "count"
                break
            if taken and cost + item.cost > budget:
                stop_reason = "budget"
                break
            taken.append(item)
            cost += item.cost
        queue.credit = 0
        for item in taken:
            self._remove(item.id)
        return Batch(key, tuple(taken), cost, stop_reason, now)

    def _remove(self, item_id: int) -> None:
        key = self._keys.pop(item_id)
        queue = self._queues[key]
        cost = queue.items.pop(item_id).cost
        queue.cost -= cost
        self.queued_tokens -= cost
        if not queue.items:
            del self._queues[key]
            self._ring.remove(key)

    def _grow(self, key: Key) -> None:
        grown = self._budgets[key] + max(1, self.max_tokens // 16)
        if grown >= self.max_tokens:
            del self._budgets[key]
        else:
            self._budgets[key] = grown
