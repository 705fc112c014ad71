"""The log of a start: how far a process has come, and after how many seconds."""

from __future__ import annotations

import logging
import time
from typing import Any

from service.api.log import event, flush


class StartLog:
    """A clock that runs from its construction on, and writes a line for each stage that a process has reached."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def reached(self, stage: str, **fields: Any) -> None:
        """Write the line of a stage, with JSON-ready details."""
        event(logging.INFO, "start", {"stage": stage, "seconds": round(time.monotonic() - self._began, 2)} | fields)
        flush()  # a replica's constructor runs on the event loop, which would write all lines at the end
