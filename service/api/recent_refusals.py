"""Refusals that are given again for a moment, before the next body of the same kind is read."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import NamedTuple

from service.errors import ProblemError

PAUSE_SHARE, PAUSE_MAX_SECONDS = 0.1, 0.1  # of the time after which the refusal says to come back
SIMILAR = 0.5  # times the bytes of a body that was refused: smaller ones may still be taken
MAX_KINDS = 1024  # names of callers come from outside


class _Refusal(NamedTuple):
    problem: ProblemError
    size: int
    seconds: float
    until: float


class RecentRefusals:
    """The last refusals for full queues, by kind of request.

    A body that is read, parsed and copied to a queue that refuses it costs as much as one that is answered. In a tenth
    of the time that a refusal names, its queue drains by as much, so the device never waits.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[Hashable, _Refusal] = OrderedDict()

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
        found = self._last.get(kind)
        if found is None:
            return
        if self._clock() >= found.until:
            del self._last[kind]
        elif size >= SIMILAR * found.size and seconds <= found.seconds:
            raise replace(found.problem)

    def pause(self, kind: Hashable, problem: ProblemError) -> float:
        """Return the seconds in which the like of a refusal is to be given; one that was given again adds none."""
        found = self._last.get(kind)
        left = 0.0 if found is None else found.until - self._clock()
        return left if left > 0 else _pause_seconds(problem)

    def note(self, kind: Hashable, size: int, seconds: float, problem: ProblemError) -> None:
        """Remember a refusal for a full queue; arguments as for `check`."""
        if problem.code != "overloaded" or problem.retry_after_seconds is None or not size:
            return
        kept = replace(problem)  # without its traceback, whose frames hold the body
        self._last[kind] = _Refusal(kept, size, seconds, self._clock() + _pause_seconds(problem))
        self._last.move_to_end(kind)
        if len(self._last) > MAX_KINDS:
            self._last.popitem(last=False)


def _pause_seconds(problem: ProblemError) -> float:
    """Return the time in which the like of what was refused is refused too; 0 where the refusal names none."""
    return min(PAUSE_MAX_SECONDS, PAUSE_SHARE * (problem.retry_after_seconds or 0.0))
