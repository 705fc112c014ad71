"""The layer that sends large answers, once nothing of their requests is held any more, and bounds slow readers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from media.limits import MIB
from service.api.errors import ClientGoneError
from service.api.send import SLICE_BYTES, send_piece
from service.api.transfer import Transfer, end_wait, slowest
from service.settings import Limits

STALL_SECONDS = Limits().stream_idle_seconds  # the default: in Ray's own proxy there are no settings
MAX_UNSENT_BYTES = 256 * MIB  # in a replica


class LargeAnswers:
    """Middleware that sends last messages of more than a slice in slices, so that a server's buffers hold one of each.

    The last message is all of most answers, and of a stream of events what its reader has not taken.

    Readers that take none for long are given up. Where more bytes wait than the bound, the slowest reader is.

    Args:
        app: what it wraps, Ray's HTTP server: its places and deadlines are for work.
        clock: seconds.
        max_bytes: that wait, of all answers together.
    """

    def __init__(
        self, app: ASGIApp, clock: Callable[[], float] = time.monotonic, max_bytes: int = MAX_UNSENT_BYTES
    ) -> None:
        self._app, self._clock, self._max_bytes = app, clock, max_bytes
        self._answers: dict[Transfer, int] = {}  # and the bytes of each

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        large = b""

        async def answer(message: Message) -> None:
            nonlocal large
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                data = message.get("body", b"")
                if len(data) > SLICE_BYTES:
                    large = data
                    return
            await send(message)

        await self._app(scope, receive, answer)
        if large:
            await self._send(large, send)

    async def _send(self, data: bytes, send: Send) -> None:
        """Send an answer; one that is given up ends in the middle, and the server closes the connection."""
        with suppress(ClientGoneError, TimeoutError):
            async with asyncio.timeout(None) as timer:
                mine = Transfer(self._clock, partial(end_wait, timer))
                self._answers[mine] = len(data)
                try:
                    self._make_place()
                    await send_piece(send, data, STALL_SECONDS, more=False, transfer=mine)
                finally:
                    self._answers.pop(mine, None)

    def _make_place(self) -> None:
        waiting = sum(whole - answer.size for answer, whole in self._answers.items())
        while waiting > self._max_bytes and (slow := slowest(self._answers)) is not None:
            waiting -= self._answers.pop(slow) - slow.size
            slow.end()
