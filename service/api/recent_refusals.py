"""Refusals that are given again for a moment, before the next body of the same kind is read."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Generic, TypeVar

from service.errors import ProblemError

PAUSE_SHARE, PAUSE_MAX_SECONDS = 0.1, 0.1  # of the time after which the refusal says to come back
SIMILAR = 0.5  # times the bytes of a body that was refused: smaller ones may still be taken
MAX_KINDS = 1024  # names of callers come from outside

Kept = TypeVar("Kept")


class LastRefusals(Generic[Kept]):
    """The last refusal of each kind of request, for as long as it is to be given again.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: OrderedDict[Hashable, tuple[Kept, int, float]] = OrderedDict()

    def left(self, kind: Hashable) -> float:
        """Return the seconds for which there is a refusal of a kind, 0 without one."""
        _, _, until = self._last.get(kind, (None, 0, 0.0))
        return max(0.0, until - self._clock())

    def find(self, kind: Hashable, size: int) -> Kept | None:
        """Return the refusal of a body that was not much larger than `size` bytes, or None."""
        if not self.left(kind):
            self._last.pop(kind, None)
            return None
        kept, refused_size, _ = self._last[kind]
        return kept if size >= SIMILAR * refused_size else None

    def keep(self, kind: Hashable, size: int, kept: Kept, seconds: float) -> None:
        """Keep the refusal of a body of `size` bytes for so many seconds."""
        self._last[kind] = kept, size, self._clock() + seconds
        self._last.move_to_end(kind)
        if len(self._last) > MAX_KINDS:
            self._last.popitem(last=False)


class RecentRefusals:
    """The last refusals for full queues, by kind of request.

    A body that is read, parsed and copied to a queue that refuses it costs as much as one that is answered. In a tenth
    of the time that a refusal names, its queue drains by as much, so the device never waits.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: LastRefusals[tuple[ProblemError, float]] = LastRefusals(clock)

    def check(self, kind: Hashable, size: int, seconds: float) -> None:
        """Refuse a request before its body is read, where its like has just been refused.

        Args:
            kind: the key of its caller or else its group, its priority, its path, the type of its body, and whether it
                submits a job.
            size: of its body in bytes, 0 if that is not known.
            seconds: of its deadline; a queue may take a request that can wait longer than a refused one.

        Raises:
            ProblemError: `overloaded`.
        """
        problem, most = self._last.find(kind, size) or (None, 0.0)
        if problem is not None and seconds <= most:
            raise replace(problem)

    def pause(self, kind: Hashable, problem: ProblemError) -> float:
        """Return the seconds in which the like of a refusal is to be given; one that was given again adds none."""
        return self._last.left(kind) or _pause_seconds(problem)

    def note(self, kind: Hashable, size: int, seconds: float, problem: ProblemError) -> None:
        """Remember a refusal for a full queue; arguments as for `check`."""
        if problem.code != "overloaded" or problem.retry_after_seconds is None or not size:
            return
        kept = replace(problem)  # without its traceback, whose frames hold the body
        self._last.keep(kind, size, (kept, seconds), _pause_seconds(problem))


def _pause_seconds(problem: ProblemError) -> float:
    """Return the time in which the like of what was refused is refused too; 0 where the refusal names none."""
    return min(PAUSE_MAX_SECONDS, PAUSE_SHARE * (problem.retry_after_seconds or 0.0))
