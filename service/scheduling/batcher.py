"""Batches of waiting items, in order: a state machine without threads, clocks or tensors of its own.

Items of equal key run together. Callers have equal shares by cost, and so have the keys of one caller: neither a stream
of images nor one long clip can starve the other. Interactive items go before bulk ones, which fill what is left of a
batch. Every fourth batch begins with the item that has waited longest, whatever it is, so each item that `n` others
wait before starts within 4 (n + 1) batches. Nothing waits for company: a batch is what has gathered meanwhile.

Items of one message are a group: admitted or refused together, and served one after another while a batch has space.
Its answer needs the last of them. If each caller had one place of a batch, all messages would end together, and late.

A group is admitted only if it can be expected to start in time: the rate at which items drained lately says when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from service.drain_rate import DrainRate, retry_after
from service.errors import ProblemError
from service.flow import PRIORITIES
from service.scheduling.fair_share import FairShare
from service.scheduling.item import Item, Key

StopReason = Literal["drained", "count", "budget"]

MAX_RUNNING = 2
# A batch goes behind a short one once enough waits to fill it: small ones cost the host as much as large ones.
# A long one hides what the host does between two.
AHEAD_SECONDS = 0.02
OLDEST_EVERY = 4  # batches; the least share of what would otherwise starve
MAX_TIMES_FREE = 4  # a caller's hold on the queue, as a multiple of what is free: others always find some
SHRUNKEN_KEYS = 256  # keys come from callers' shapes, so what is remembered of them is bounded


@dataclass(frozen=True, eq=False)
class Batch:
    """Items of one key that run together; `stop_reason` says why there are no more of them.

    Their cost exceeds the budget only where a single item does.
    """

    key: Key
    items: tuple[Item, ...]
    cost: int
    stop_reason: StopReason
    started: float
    budget: int


class Batcher:
    """The queue and the choice of the next batch. A short batch has the next one behind it where enough waits.

    Args:
        max_tokens: latent positions of one batch; a larger item runs alone.
        max_requests: items of one batch.
        max_queue_tokens: latent positions that may wait; an empty queue takes any group.
        max_queue_seconds: the longest expected wait of a group that others wait before.
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
        self._running_cost = 0
        self._items: dict[int, Item] = {}  # that wait, in order of arrival
        self._shares = {priority: FairShare() for priority in PRIORITIES}  # the same items
        self._batches = 0
        self._budgets: dict[Key, int] = {}  # keys that ran out of memory at the full budget
        self._rate = DrainRate()
        self._completed = -math.inf
        self._none_before = math.inf  # no deadline is earlier; a queue is not searched for each batch

    @property
    def queued_requests(self) -> int:
        """Return the number of items that wait."""
        return len(self._items)

    @property
    def oldest(self) -> Item | None:
        """Return the item that has waited longest, or None if none waits."""
        return next(iter(self._items.values()), None)

    @property
    def earliest_deadline(self) -> float | None:
        """Return the earliest deadline of the items that wait, or None if none does."""
        return min((item.deadline for item in self._items.values()), default=None)

    def budget(self, key: Key) -> int:
        """Return the latent positions that a batch of `key` may hold now."""
        return self._budgets.get(key, self.max_tokens)

    def submit(self, items: Sequence[Item], now: float) -> None:
        """Admit the items of a group, or refuse all of them at once.

        Args:
            items: one or more, alike but for their numbers and payloads.
            now: seconds.

        Raises:
            ProblemError: `overloaded`, with the time that the work before the group needs.
        """
        item, cost = items[0], len(items) * items[0].cost
        for each in items:
            if each.id in self._items or each.cost < 1:
                raise ValueError(f"Item {each.id} of cost {each.cost} is queued already or costs nothing.")
        if self._items:
            self._check_space(item, cost, now)
        before = self.queued_tokens + self._running_cost
        longest = self._rate.seconds(before + self.queued_tokens + cost)  # until it ends, as its batch may hold all
        # an estimate takes time, which a short queue does not need
        if longest is not None and longest > min(item.deadline - now, self.max_queue_seconds):
            self._check_wait(item, len(items), now)
        for each in items:
            self._items[each.id] = each
        self._shares[item.flow.priority].add(items)
        self.queued_tokens += cost
        self._none_before = min(self._none_before, item.deadline)

    def cancel(self, item_id: int) -> bool:
        """Forget a waiting item; False if it does not wait (any more)."""
        if item_id not in self._items:
            return False
        self._remove(self._items[item_id])
        return True

    def expire(self, now: float) -> list[Item]:
        """Take out and return the waiting items whose deadline has come."""
        if now < self._none_before:
            return []
        late = [item for item in self._items.values() if item.deadline <= now]
        for item in late:
            self._remove(item)
        earliest = self.earliest_deadline
        self._none_before = math.inf if earliest is None else earliest
        return late

    def next_batch(self, now: float) -> Batch | None:
        """Start the next batch, or None if nothing waits or enough runs.

        Call `expire` first; `complete` must follow, in the same order.
        """
        if not self._items or self._is_busy():
            return None
        self._batches += 1
        oldest = next(iter(self._items.values()))
        firsts = (share.first() for share in self._shares.values())
        first = next(item for item in firsts if item is not None)
        batch = self._form(oldest if self._batches % OLDEST_EVERY == 0 else first, now)
        self.running.append(batch)
        self._running_cost += batch.cost
        return batch

    def complete(self, now: float) -> float:
        """Say that the first of the running batches has ended, well or not; return the time that it had, seconds."""
        if not self.running:
            raise RuntimeError("No batch is running.")
        batch = self.running.popleft()
        self._running_cost -= batch.cost
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

        Other callers get what its own caller gets until then, and so do other keys of that one.
        """
        before = self._shares[item.flow.priority].cost_before(item, self.max_tokens, self.max_requests)
        if item.flow.priority == "bulk":
            before += sum(other.cost for other in self._items.values() if other.flow.priority == "interactive")
        wait = self._rate.seconds(before)
        if wait is None or not self.running:
            return wait
        elapsed = now - max(self.running[0].started, self._completed)
        return wait + max(0.0, (self._running_seconds() or 0.0) - elapsed)

    def _is_busy(self) -> bool:
        if not self.running:
            return False
        seconds, grows = self._running_seconds(), self.queued_tokens < self.max_tokens
        grows &= self.queued_requests < self.max_requests
        return grows or len(self.running) == MAX_RUNNING or seconds is None or seconds > AHEAD_SECONDS

    def batch_seconds(self, item: Item, count: int = 1) -> float:
        """Return the seconds of the batch that an item will be in, when as many like it wait as fit.

        Args:
            item: the first of its group.
            count: items of the group, whose seconds count where they are more.
        """
        own = count * item.cost
        cost = min(self.queued_tokens + own, self.budget(item.key), self.max_requests * item.cost)
        return self._rate.seconds(max(cost, own)) or 0.0

    def _running_seconds(self) -> float | None:
        return self._rate.seconds(self._running_cost)

    def _check_wait(self, item: Item, count: int, now: float) -> None:
        patience = item.deadline - now
        if self._items:
            patience = min(patience - self.batch_seconds(item, count), self.max_queue_seconds)
        wait = self.wait(item, now)
        if wait is not None and wait > patience:
            allowed = max(0.0, patience)
            detail = f"The request would wait for {wait:.1f} s, and it may wait for {allowed:.1f} s."
            raise ProblemError("overloaded", detail, allowed, wait, [], retry_after(wait))

    def _check_space(self, item: Item, cost: int, now: float) -> None:
        free = self.max_queue_tokens - self.queued_tokens
        if self.queued_tokens + cost <= free:  # no caller can hold more of the queue than is free
            return
        held = sum(share.held(item.caller) for share in self._shares.values())
        if cost > free:
            detail, limit, actual = "The queue is full.", self.max_queue_tokens, self.queued_tokens + cost
        elif held + cost > MAX_TIMES_FREE * free:
            detail, limit, actual = "The caller's share of the queue is full.", MAX_TIMES_FREE * free, held + cost
        else:
            return
        raise ProblemError("overloaded", detail, limit, actual, [], retry_after(self.wait(item, now)))

    def _form(self, head: Item, now: float) -> Batch:
        taken: list[Item] = []
        budget, cost = self.budget(head.key), 0
        stop_reason: StopReason = "drained"
        for item in self._in_order(head):
            if taken and (len(taken) == self.max_requests or cost + item.cost > budget):
                stop_reason = "count" if len(taken) == self.max_requests else "budget"
                break
            self._serve(item)
            taken.append(item)
            cost += item.cost
        return Batch(head.key, tuple(taken), cost, stop_reason, now, budget)

    def _in_order(self, head: Item) -> Iterator[Item]:
        """Yield an item and what may follow it in a batch; each must be served before the next is asked for."""
        yield head
        for priority, share in self._shares.items():
            last = head if head.flow.priority == priority else None
            while (last := share.first_of(head.key, last)) is not None:
                yield last

    def _serve(self, item: Item) -> None:
        self._shares[item.flow.priority].serve(item)
        self._forget(item)

    def _remove(self, item: Item) -> None:
        self._shares[item.flow.priority].remove(item)
        self._forget(item)

    def _forget(self, item: Item) -> None:
        del self._items[item.id]
        self.queued_tokens -= item.cost

    def _grow(self, key: Key) -> None:
        grown = self._budgets[key] + max(1, self.max_tokens // 16)
        if grown >= self.max_tokens:
            del self._budgets[key]
        else:
            self._budgets[key] = grown
