"""Server-Sent Events: a stream that no slow reader fills, and whose end is the end of the work behind it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.disconnect import while_connected
from service.api.errors import problem_of
from service.api.send import SLICE_BYTES, STREAM_HEADERS, send_slice
from service.errors import ProblemError
from service.formats.media_types import EVENT_STREAM

HEARTBEAT_SECONDS = 10.0  # proxies close connections that are silent for longer
SPARE_EVENT_SECONDS = 0.1  # between events that may be dropped

Fields = dict[str, Any]
Event = tuple[str, Fields]


class Channel:
    """The events of one request on their way to its reader.

    Those that matter are kept in order. Of those that may be dropped the newest of each key waits, and they leave at
    most ten times a second, so that memory and traffic are bounded whatever the reader does.

    Args:
        heartbeat_seconds: silence after which iteration yields None.

    Attributes:
        opened: has a result once there was an event that matters.
    """

    def __init__(self, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._kept: deque[Event] = deque()
        self._spare: dict[Hashable, Callable[[], Awaitable[Event]]] = {}
        self._changed = asyncio.Event()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False

    def put(self, name: str, fields: Fields) -> None:
        """Append an event."""
        self._kept.append((name, fields))
        self._changed.set()
        if not self.opened.done():
            self.opened.set_result(None)

    def offer(self, key: Hashable, render: Callable[[], Awaitable[Event]]) -> None:
        """Offer an event that is made when the reader has time for it; it replaces an older one of its key.

        Args:
            key: of the events that replace one another.
            render: makes the event; it is dropped when this raises `ProblemError`.
        """
        self._spare[key] = render
        self._changed.set()

    def close(self) -> None:
        """End the iteration after the events that matter; nothing follows."""
        self._closed = True
        self._changed.set()

    def rest(self) -> list[Event]:
        """Take all events that matter and have not been iterated over."""
        events = [*self._kept]
        self._kept.clear()
        return events

    async def __aiter__(self) -> AsyncIterator[Event | None]:
        clock = asyncio.get_running_loop().time
        spare_from = 0.0
        while True:
            if self._kept:
                yield self._kept.popleft()
            elif self._closed:
                return
            elif self._spare and clock() >= spare_from:
                render = self._spare.pop(next(iter(self._spare)))
                with suppress(ProblemError):
                    yield await render()
                spare_from = clock() + SPARE_EVENT_SECONDS
            else:
                self._changed.clear()
                wait = spare_from - clock() if self._spare else self._heartbeat_seconds
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    if not self._spare:
                        yield None


class EventStream(Response):
    """The answer that sends the events of a channel while the work that fills it runs.

    The work is cancelled when the reader leaves or takes nothing for too long. Its failure becomes the event `error`,
    and `done` is the last event. What has not left when the work ends is the last message, for `LargeAnswers` to send.

    Args:
        channel: the events.
        work: fills the channel; it is closed when the work ends.
        request_id: of the request, for problem documents.
        headers: of the answer.
        stall_seconds: time without a byte taken, after which the reader counts as gone.

    Attributes:
        release: called once nothing of the request is needed any more.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        channel: Channel,
        work: asyncio.Task[None],
        request_id: str,
        headers: dict[str, str],
        stall_seconds: float,
    ) -> None:
        # Proxies that buffer would hold events back; nginx looks at this header.
        super().__init__(headers=STREAM_HEADERS | headers)
        del self.headers["content-length"]
        self._channel, self._work, self._request_id = channel, work, request_id
        self._stall_seconds = stall_seconds
        self.release: Callable[[], None] = lambda: None
        work.add_done_callback(lambda _: channel.close())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        Raises:
            ClientGoneError: the reader left before the end.
        """
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            request = Request(scope, receive)
            await while_connected(request, self._send_all(request, send))
        finally:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self.release()

    async def _send_all(self, request: Request, send: Send) -> None:
        unsent = memoryview(b"")
        async for event in self._channel:
            unsent = memoryview(b":\n\n" if event is None else _written(*event))
            while unsent and not self._work.done():
                await send_slice(send, bytes(unsent[:SLICE_BYTES]), self._stall_seconds)
                unsent = unsent[SLICE_BYTES:]
            if self._work.done():
                break
        failure, last = self._work.exception(), self._channel.rest()
        if failure:
            problem = problem_of(failure, self._request_id)
            request.state.problem = problem.code
            last.append(("error", problem.document(self._request_id)))
        last.append(("done", {"id": self._request_id, "ok": failure is None}))
        rest = await asyncio.to_thread(lambda: b"".join([unsent, *(_written(*event) for event in last)]))
        await send_slice(send, rest, self._stall_seconds, more=False)


async def open_stream(
    channel: Channel,
    work: asyncio.Task[None],
    request_id: str,
    headers: Callable[[], dict[str, str]],
    stall_seconds: float,
) -> EventStream:
    """Return the answer as soon as the channel has an event; a failure before that is raised, as of any request.

    Args:
        channel, work, request_id, stall_seconds: as for `EventStream`.
        headers: called when the first event is there.
    """
    try:
        await asyncio.wait({work, channel.opened}, return_when=asyncio.FIRST_COMPLETED)
        if not channel.opened.done():
            work.result()
        return EventStream(channel, work, request_id, headers(), stall_seconds)
    except BaseException:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise


def _written(name: str, fields: Fields) -> bytes:
    return f"event: {name}\ndata: {json.dumps(fields, allow_nan=False)}\n\n".encode()
