"""Waits for what other tasks, threads and processes report; their bounds only end a failing test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SECONDS = 120.0  # a busy machine is slow, not wrong


def eventually(condition: Callable[[], bool], seconds: float = SECONDS, pause: float = 0.01) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(pause)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, while other tasks of the event loop run."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
