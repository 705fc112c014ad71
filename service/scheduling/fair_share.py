"""Waiting items under fair queueing by cost: between callers, and between the keys of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace

from service.scheduling.item import Item, Key

MAX_REMEMBERED = 1024  # callers that owe and wait for nothing; names come from outside


@dataclass
class _Queue:
    """The items of one caller and key, in order of arrival."""

    served: float
    items: dict[int, Item] = field(default_factory=dict)
    cost: int = 0

    @property
    def first(self) -> Item:
        """Return the item that came first; a queue is never empty."""
        return next(iter(self.items.values()))


@dataclass(eq=False)
class _Caller:
    """The queues of one caller; `served` counts as if it had used its share while it was idle."""

    number: int
    served: float = 0.0
    level: float = 0.0  # where the account of a new queue begins
    cost: int = 0  # of what waits
    queues: dict[Key, _Queue] = field(default_factory=dict)


class _Order:
    """A heap of callers by their accounts. An account that has grown is noticed when its caller comes first."""

    def __init__(self, waits: Callable[[_Caller], bool]) -> None:
        self._waits = waits
        self._heap: list[tuple[float, int, _Caller]] = []
        self._numbers: set[int] = set()

    def add(self, caller: _Caller) -> None:
        """Let a caller take part."""
        if caller.number not in self._numbers:
            self._numbers.add(caller.number)
            heappush(self._heap, (caller.served, caller.number, caller))

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> _Caller | None:
        """Return the caller with the lowest account among those that wait."""
        while self._heap:
            served, number, caller = self._heap[0]
            if not self._waits(caller):
                heappop(self._heap)
                self._numbers.remove(number)
            elif caller.served > served:
                heapreplace(self._heap, (caller.served, number, caller))
            else:
                return caller
        return None


class _Key:
    """The callers that have items of a key."""

    def __init__(self, key: Key) -> None:
        self.order = _Order(lambda caller: key in caller.queues)
        self.items = 0


class FairShare:
    """Items in the order of start-time fair queueing.

    Each caller has an account of the cost that it was served, and the caller with the lowest is next. A caller that was
    idle starts level with the others, so time that it did not use is lost. Keys of one caller share in the same way.
    """

    def __init__(self) -> None:
        self._callers: dict[Hashable, _Caller] = {}
        self._order = _Order(lambda caller: bool(caller.queues))
        self._keys: dict[Key, _Key] = {}
        self._numbers = itertools.count()
        self._level = 0.0  # the account of a caller that has been idle
        self._costs_below: dict[float, float] = {}  # by account, until anything changes: refusals come in crowds

    def add(self, items: Sequence[Item]) -> None:
        """Let items wait that are alike but for their numbers and payloads."""
        item = items[0]
        if (caller := self._callers.get(item.caller)) is None:
            caller = self._callers[item.caller] = _Caller(next(self._numbers))
        if not caller.queues:
            caller.served = max(caller.served, self._level)
        if (queue := caller.queues.get(item.key)) is None:
            queue = caller.queues[item.key] = _Queue(caller.level)
        if (of_key := self._keys.get(item.key)) is None:
            of_key = self._keys[item.key] = _Key(item.key)
        cost = len(items) * item.cost
        for each in items:
            queue.items[each.id] = each
        queue.cost += cost
        caller.cost += cost
        self._costs_below.clear()
        of_key.items += len(items)
        of_key.order.add(caller)
        self._order.add(caller)

    def remove(self, item: Item) -> None:
        """Forget a waiting item, as if it had not come."""
        caller, of_key = self._callers[item.caller], self._keys[item.key]
        queue = caller.queues[item.key]
        del queue.items[item.id]
        queue.cost -= item.cost
        caller.cost -= item.cost
        self._costs_below.clear()
        of_key.items -= 1
        if not of_key.items:
            del self._keys[item.key]
        if queue.items:
            return
        del caller.queues[item.key]
        if not caller.queues and caller.served <= self._level:
            del self._callers[item.caller]
        elif len(self._callers) > MAX_REMEMBERED + len(self._order):
            self._callers = {name: caller for name, caller in self._callers.items() if caller.queues}

    def serve(self, item: Item) -> None:
        """Take an item out and charge its caller."""
        caller = self._callers[item.caller]
        caller.served += item.cost
        caller.queues[item.key].served += item.cost
        self.remove(item)

    def first(self) -> Item | None:
        """Return the item that is next, or None if none waits; what comes later starts level with it."""
        caller = self._order.first()
        if caller is None:
            return None
        self._level = max(self._level, caller.served)
        queue = min(caller.queues.values(), key=lambda queue: queue.served)
        caller.level = max(caller.level, queue.served)
        return queue.first

    def first_of(self, key: Key, served: Item | None = None) -> Item | None:
        """Return the item of a key that is next, or None if none waits.

        Args:
            key: of the item.
            served: the one before it, whose group goes on.
        """
        if key not in self._keys:
            return None
        if served is not None and served.group is not None and served.caller in self._callers:
            queue = self._callers[served.caller].queues.get(key)
            if queue is not None and (item := queue.first).group == served.group:
                return item
        caller = self._keys[key].order.first()
        return None if caller is None else caller.queues[key].first

    def held(self, caller: Hashable) -> int:
        """Return the cost of what a caller has waiting."""
        return self._callers[caller].cost if caller in self._callers else 0

    def cost_before(self, item: Item, max_cost: int, max_items: int) -> float:
        """Return the cost that is served before a new item would start, if nothing else comes.

        Args:
            item: the new one.
            max_cost, max_items: of one batch.
        """
        mine = self._callers.get(item.caller, _Caller(-1, self._level))
        own = mine.queues.get(item.key, _Queue(mine.level))
        turns = max(math.ceil((own.cost + item.cost) / max_cost), math.ceil((len(own.items) + 1) / max_items))
        others = sum(min(queue.cost, turns * max_cost) for queue in mine.queues.values() if queue is not own)
        account = max(mine.served, self._level) + own.cost + others + item.cost
        of_mine = min(mine.cost, max(0.0, account - mine.served))
        return own.cost + others + self._cost_below(account) - of_mine

    def _cost_below(self, account: float) -> float:
        """Return the cost that callers have waiting until their accounts reach `account`."""
        if (known := self._costs_below.get(account)) is None:
            waiting = (caller for caller in self._callers.values() if caller.cost)
            known = sum(min(caller.cost, max(0.0, account - caller.served)) for caller in waiting)
            self._costs_below[account] = known
        return known
