"""Bodies and answers on their way. Where too many are, the slowest one makes place."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

NEWCOMER_SECONDS = 1.0  # nobody is called slow before that


class Transfer:
    """A body or an answer on its way.

    Args:
        clock: seconds.
        give_way: ends the wait for the other side; None while nobody waits for it.

    Attributes:
        size: bytes that have come or gone.
        since: when it began, by the clock.
    """

    def __init__(self, clock: Callable[[], float], give_way: Callable[[], None] | None = None) -> None:
        self._clock, self.give_way = clock, give_way
        self.size, self.since = 0, clock()

    def pace(self) -> float:
        """Return the bytes a second, infinite of a newcomer."""
        seconds = self._clock() - self.since
        return self.size / seconds if seconds >= NEWCOMER_SECONDS else math.inf

    def end(self) -> None:
        """Give way to others, once."""
        give_way, self.give_way = self.give_way, None
        if give_way is not None:
            give_way()


def end_wait(timer: asyncio.Timeout) -> None:
    """Let a wait time out now."""
    with suppress(RuntimeError):  # its own time is up this very moment
        timer.reschedule(asyncio.get_running_loop().time())


T = TypeVar("T", bound=Transfer)


def slowest(transfers: Iterable[T], limit: float = math.inf) -> T | None:
    """Return the slowest of those that can give way, or None if their paces are all at `limit` or above.

    Args:
        transfers: to choose from.
        limit: bytes a second.
    """
    slow = [(pace, one) for one in transfers if one.give_way and (pace := one.pace()) < limit]
    return min(slow, key=lambda pair: pair[0], default=(0.0, None))[1]
