"""A mailbox that holds the newest value only, so that a slow reader never slows its writer."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Mailbox(Generic[Value]):
    """One value between a writer and a reader on one event loop; a new value overwrites one that was not read."""

    def __init__(self) -> None:
        self._values: asyncio.Queue[Value] = asyncio.Queue(1)

    def put(self, value: Value) -> None:
        """Leave a value, in place of the one that waits."""
        if self._values.full():
            self._values.get_nowait()
        self._values.put_nowait(value)

    async def get(self) -> Value:
        """Wait for a value and take it."""
        return await self._values.get()
