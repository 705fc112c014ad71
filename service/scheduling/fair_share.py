"""Waiting items under fair queueing by cost: between callers, and between the keys of each."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import islice

from service.scheduling.item import Item, Key

MAX_REMEMBERED = 256  # callers that owe; names come from outside, and each batch looks at all of them


@dataclass
class _Queue:
    """The items of one caller and key, in order of arrival."""

    served: float
    items: dict[int, Item] = field(default_factory=dict)
    cost: int = 0


@dataclass
class _Caller:
    """The queues of one caller; `served` counts as if it had used its share while it was idle."""

    served: float = 0.0
    level: float = 0.0  # where the account of a new queue begins
    queues: dict[Key, _Queue] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Return the cost of what waits."""
        return sum(queue.cost for queue in self.queues.values())


class FairShare:
    """Items in the order of start-time fair queueing.

    Each caller has an account of the cost that it was served, and the caller with the lowest is next. A caller that was
    idle starts level with the others, so time that it did not use is lost. Keys of one caller share in the same way.
    """

    def __init__(self) -> None:
        self._callers: dict[Hashable, _Caller] = {}
        self._level = 0.0  # the account of a caller that has been idle

    def add(self, item: Item) -> None:
        """Let an item wait."""
        caller = self._callers.setdefault(item.caller, _Caller())
        if not caller.queues:
            caller.served = max(caller.served, self._level)
        queue = caller.queues.setdefault(item.key, _Queue(caller.level))
        queue.items[item.id] = item
        queue.cost += item.cost

    def remove(self, item: Item) -> None:
        """Forget a waiting item, as if it had not come."""
        caller = self._callers[item.caller]
        queue = caller.queues[item.key]
        del queue.items[item.id]
        queue.cost -= item.cost
        if queue.items:
            return
        del caller.queues[item.key]
        if not caller.queues and caller.served <= self._level:
            del self._callers[item.caller]
        elif len(self._callers) > MAX_REMEMBERED:
            self._callers = {name: caller for name, caller in self._callers.items() if caller.queues}

    def serve(self, item: Item) -> None:
        """Take an item out and charge its caller."""
        caller = self._callers[item.caller]
        caller.served += item.cost
        caller.queues[item.key].served += item.cost
        self.remove(item)

    def first(self) -> Item | None:
        """Return the item that is next, or None if none waits; what comes later starts level with it."""
        waiting = [caller for caller in self._callers.values() if caller.queues]
        if not waiting:
            return None
        caller = min(waiting, key=lambda caller: caller.served)
        self._level = max(self._level, caller.served)
        queue = min(caller.queues.values(), key=lambda queue: queue.served)
        caller.level = max(caller.level, queue.served)
        return next(iter(queue.items.values()))

    def of_key(self, key: Key, most: int) -> Iterator[Item]:
        """Yield up to `most` items of a key in order; they may be served meanwhile."""
        heads = []
        for number, caller in enumerate(self._callers.values()):
            if key in caller.queues:
                items = iter(list(islice(caller.queues[key].items.values(), most)))
                heads.append((caller.served, number, next(items), items))
        heapify(heads)
        for _ in range(most):
            if not heads:
                return
            served, number, item, items = heads[0]
            yield item
            following = next(items, None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (served + item.cost, number, following, items))

    def held(self, caller: Hashable) -> int:
        """Return the cost of what a caller has waiting."""
        return self._callers[caller].cost if caller in self._callers else 0

    def cost_before(self, item: Item, max_cost: int, max_items: int) -> float:
        """Return the cost that is served before a new item would start, if nothing else comes.

        Args:
            item: the new one.
            max_cost, max_items: of one batch.
        """
        mine = self._callers.get(item.caller, _Caller(self._level))
        own = mine.queues.get(item.key, _Queue(mine.level))
        turns = max(math.ceil((own.cost + item.cost) / max_cost), math.ceil((len(own.items) + 1) / max_items))
        others = sum(min(queue.cost, turns * max_cost) for queue in mine.queues.values() if queue is not own)
        account = max(mine.served, self._level) + own.cost + others + item.cost
        callers = (other for other in self._callers.values() if other is not mine)
        return own.cost + others + sum(min(other.cost, max(0.0, account - other.served)) for other in callers)
