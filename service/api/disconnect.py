"""The end of work whose client has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.api.errors import ClientGoneError

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a request whose body is read, and stop as soon as its client leaves.

    Raises:
        ClientGoneError: the client left; the work is cancelled and over.
    """
    worker, left = asyncio.current_task(), False
    assert worker is not None

    async def watch() -> None:
        nonlocal left
        with contextlib.suppress(ClientGoneError):  # which the middleware makes of a server's own exception
            while (await request.receive())["type"] != "http.disconnect":
                pass
        left = True
        worker.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and worker.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
