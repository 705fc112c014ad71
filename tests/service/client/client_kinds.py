"""The asynchronous client under the face of the blocking one, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from service.client import AsyncClient, Client

# connect(url, waits, **arguments) opens a client that appends to `waits` the seconds between its attempts.
Connect = Callable[..., Client]


async def _listed(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


class Blocking:
    """An `AsyncClient` whose methods wait for their answer."""

    def __init__(self, url: str, sleep: Callable[[float], object], **arguments: Any) -> None:
        async def wait(seconds: float) -> None:
            sleep(seconds)

        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, sleep=wait, **arguments)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*positional: Any, **named: Any) -> Any:
            work = method(*positional, **named)
            return self._runner.run(_listed(work) if inspect.isasyncgen(work) else work)

        return call

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()
