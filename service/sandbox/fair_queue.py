"""The order of tasks whose cost is known: shares of equal size for callers, and the cheapest first for each of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Task = TypeVar("Task")

# Callers that owe nothing are forgotten, at the latest when so many are remembered.
_MAX_REMEMBERED = 1024
# Costs that differ by less are alike.
_ALIKE = 1.25


@dataclass(eq=False)
class Ticket(Generic[Task]):
    """A place in the queue.

    Args:
        task: what waits.
        caller: whose task it is.
        cost: of running it, in any unit; positive.
        size: memory that it holds while it waits, bytes.
        arrived: when it came, on any clock.
    """

    task: Task
    caller: str
    cost: float
    size: int = 0
    arrived: float = 0.0
    tag: float = field(default=0.0, init=False)


class FairQueue(Generic[Task]):
    """Waiting tasks under weighted fair queueing by cost.

    Each caller has an account of what it was served; the next task is of the caller whose account, with that task, is
    lowest. A caller that was idle starts level with the others: time that it did not use is lost. Of one caller's tasks
    the first is the one with the lowest tag: `patience` times its cost, on top of all that was served when it arrived.
    Later ones thus pass a task that costs C only until `patience` times C was served.

    Over its bounds the queue drops the dearest task of the caller that holds the most.

    Args:
        max_tasks, max_cost, max_bytes: bounds of what waits; a single task of any cost and size may always wait.
        patience: of dear tasks with cheap ones of the same caller; with 1 they go almost in the order of arrival.
    """

    def __init__(self, max_tasks: int, max_cost: float, max_bytes: int, patience: float) -> None:
        self._patience = patience
        self._max_tasks, self._max_cost, self._max_bytes = max_tasks, max_cost, max_bytes
        self._waiting: list[Ticket[Task]] = []
        self._accounts: dict[str, float] = {}
        self._served = 0.0
        self._level = 0.0  # the account of a caller that has been idle

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> float | None:
        """Return when the ticket that has waited longest came, or None if none waits."""
        return min((ticket.arrived for ticket in self._waiting), default=None)

    def push(self, ticket: Ticket[Task]) -> list[Ticket[Task]]:
        """Let a ticket wait; return those that the bounds drop for it, itself perhaps."""
        if all(waiting.caller != ticket.caller for waiting in self._waiting):
            self._accounts[ticket.caller] = max(self._accounts.get(ticket.caller, 0.0), self._level)
        ticket.tag = self._served + self._patience * ticket.cost
        self._waiting.append(ticket)
        dropped = []
        while len(self._waiting) > 1 and self._is_over():
            dropped.append(self._dearest())
            self._waiting.remove(dropped[-1])
        return dropped

    def refuses(self, caller: str, least: float, most: float = math.inf) -> bool:
        """Return whether the queue would drop the next task of this caller, or one like it.

        That is so when it is full of tasks that cost hardly more than `least`, and no caller would hold more of them.

        Args:
            caller: whose task comes.
            least: what a task costs at least.
            most: tasks that may wait now; the queue's own bound holds too.
        """
        if len(self._waiting) < min(self._max_tasks, most) or any(
            ticket.cost > _ALIKE * least for ticket in self._waiting
        ):
            return False
        held = Counter(ticket.caller for ticket in self._waiting)
        return held[caller] + 1 >= max(held.values())

    def pop(self, max_cost: float = math.inf) -> Ticket[Task] | None:
        """Take the next ticket whose cost is at most `max_cost`, and charge its caller; None if there is none."""
        first: dict[str, Ticket[Task]] = {}
        for ticket in self._waiting:
            if ticket.cost <= max_cost and ticket.tag < first.setdefault(ticket.caller, ticket).tag:
                first[ticket.caller] = ticket
        if not first:
            return None
        ticket = min(first.values(), key=lambda ticket: self._accounts[ticket.caller] + ticket.cost)
        self._waiting.remove(ticket)
        self._served += ticket.cost
        self.charge(ticket.caller, ticket.cost)
        self._level = max(self._level, self._accounts[ticket.caller])
        self._forget()
        return ticket

    def charge(self, caller: str, cost: float) -> None:
        """Add to what a caller was served: the cost of a task, or by how much it was wrong."""
        self._accounts[caller] = self._accounts.get(caller, self._level) + cost

    def remove(self, ticket: Ticket[Task]) -> None:
        """Forget a ticket that nobody waits for any more."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    def drain(self) -> list[Ticket[Task]]:
        """Take all tickets."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def cost_before(self, cost: float) -> float:
        """Return the cost of what waits and is no dearer: roughly what would come before such a task."""
        return sum(ticket.cost for ticket in self._waiting if ticket.cost <= cost)

    def _is_over(self) -> bool:
        return (
            len(self._waiting) > self._max_tasks
            or sum(ticket.cost for ticket in self._waiting) > self._max_cost
            or sum(ticket.size for ticket in self._waiting) > self._max_bytes
        )

    def _dearest(self) -> Ticket[Task]:
        """Return the dearest and latest ticket of the caller whose tickets cost most together, the latest of equals.

        In a crowd of equals that is the newcomer: what was read and has waited is not given up for its like.
        """
        held: defaultdict[str, float] = defaultdict(float)
        for ticket in reversed(self._waiting):
            held[ticket.caller] += ticket.cost
        most = max(held, key=lambda caller: held[caller])
        return max((ticket for ticket in reversed(self._waiting) if ticket.caller == most), key=lambda one: one.cost)

    def _forget(self) -> None:
        """Drop the accounts of callers that would start level."""
        if len(self._accounts) > _MAX_REMEMBERED:
            kept = {ticket.caller for ticket in self._waiting}
            self._accounts = {
                caller: account for caller, account in self._accounts.items() if account > self._level or caller in kept
            }
