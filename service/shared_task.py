"""Work that several callers wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedTask(Generic[T]):
    """A task whose result any number of callers await. It goes on when they leave.

    Args:
        work: begins at once.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(_retrieve)

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return not self._task.done()

    @property
    def failed(self) -> bool:
        """Return whether it has ended without a result."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def result(self) -> T:
        """Return the result, or raise what the work raised."""
        return await asyncio.shield(self._task)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Read the exception, or asyncio would log it where all callers have left."""
    if not task.cancelled():
        task.exception()
