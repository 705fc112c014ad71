"""The failures of loops that must go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("ray.serve")


class LoopFailures:
    """The failures of one loop, which they do not end. Of those that follow each other the log has the first alone.

    A task or a thread that ends by an exception ends without a word: nobody waits for it.

    Args:
        work: of the loop, as the log calls it.
    """

    def __init__(self, work: str) -> None:
        self._work, self._failing = work, False

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Do a part of a turn of the loop, and log an exception in place of raising it."""
        try:
            yield
        except Exception:
            if not self._failing:
                log.exception("%s failed, and is tried again", self._work)
            self._failing = True
        else:
            self._failing = False
