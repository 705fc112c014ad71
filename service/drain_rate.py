"""The measured speed of a queue, and the time that a refused caller should wait for it."""

from __future__ import annotations

import math
import random

# A change of the load shows within a few seconds of work. After one very slow piece of work, such as a compilation,
# that alone would take too long, so that each further piece fades the past as well.
MEMORY_SECONDS = 5.0
MEMORY_PIECES = 10
RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 0.1, 60.0
JITTER = (0.8, 1.25)  # callers that were refused together must not come back together


class DrainRate:
    """Work that leaves a queue per second of its being busy; old work fades.

    Args:
        memory_seconds, memory_pieces: of work, after which older work counts a third.
        expected: work of the first second, before anything was measured; None for a rate that is not known.
    """

    def __init__(
        self,
        memory_seconds: float = MEMORY_SECONDS,
        memory_pieces: float = MEMORY_PIECES,
        expected: float | None = None,
    ) -> None:
        self._memory_seconds, self._kept = memory_seconds, 1 - 1 / memory_pieces
        self._work, self._seconds = (0.0, 0.0) if expected is None else (expected, 1.0)

    def add(self, work: float, seconds: float) -> None:
        """Count work that was done in `seconds`."""
        kept = min(math.exp(-seconds / self._memory_seconds), self._kept)
        self._work = kept * self._work + work
        self._seconds = kept * self._seconds + seconds

    @property
    def per_second(self) -> float | None:
        """Return the rate, or None before anything took time."""
        return self._work / self._seconds if self._work and self._seconds else None

    def seconds(self, work: float) -> float | None:
        """Return the time that `work` takes, or None before anything was measured."""
        rate = self.per_second
        return None if rate is None else work / rate


def retry_after(seconds: float | None) -> float:
    """Return the time after which a refused caller may come back, with jitter.

    Args:
        seconds: until there is space again, or None if that is not known.
    """
    expected = 1.0 if seconds is None else seconds
    return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, expected * random.uniform(*JITTER)))
