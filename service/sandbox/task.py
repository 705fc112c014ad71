"""One piece of work for a media worker, from the queue to its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from service.sandbox.lane import Lane

Result = TypeVar("Result")


class Task(Generic[Result]):
    """Work of a lane in one of the pool's threads, and its result.

    Args:
        run: does it.
        cancel: ends it early, once nobody waits for the result.
        measured: its time says how fast workers are.
    """

    def __init__(self, run: Callable[[Lane], Result], cancel: Callable[[Lane], None], measured: bool = True) -> None:
        self.run, self.cancel, self.measured = run, cancel, measured
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.lane: Lane | None = None  # where it runs now

    def finish(self, result: Result) -> None:
        """Give the result to whoever waits for it, if anybody does."""
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give an error instead."""
        if not self.result.done():
            self.result.set_exception(error)
