"""The log of a start: the stages that a process has reached, and the seconds that each of them took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from service.api.log import event, flush


class StartLog:
    """A line for each stage that a process reaches, with the time since the one before or since its construction.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()

    @property
    def seconds(self) -> float:
        """Return the time since its construction."""
        return self._clock() - self._began

    def reached(self, stage: str, **fields: Any) -> None:
        """Write the line of a stage, with JSON-ready details."""
        before, self._last = self._last, self._clock()
        event(logging.INFO, "start", {"stage": stage, "seconds": round(self._last - before, 2)} | fields)
        flush()  # a replica's constructor runs on the event loop, which would write all lines at the end
