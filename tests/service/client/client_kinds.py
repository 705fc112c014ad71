"""The asynchronous client under the face of the blocking one, so that one test serves both, and a picture to send."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.client import AsyncClient, Client

# connect(url, waits, **arguments) opens a client that appends to `waits` the seconds between its attempts.
Connect = Callable[..., Client]
PICTURE: NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (2, 3, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def png() -> bytes:
    """Return `PICTURE` as a file."""
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG")
    return file.getvalue()


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
