"""Streams in both directions: a body that is read while its answer is sent, one chunk at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.admission import StreamPlace
from service.api.caller import caller_of
from service.api.content_encoding import inflated, is_gzip
from service.api.content_type import content_type_of
from service.api.deadline import ChunkDeadline
from service.api.drain import RETRY_SECONDS
from service.api.errors import ClientGoneError, problem_of
from service.api.exchange import Exchange
from service.api.negotiation import require
from service.api.query import parse_options
from service.api.send import STREAM_HEADERS, send_piece
from service.api.services import Services
from service.api.transfer import end_wait
from service.errors import ProblemError
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.records import (
    Begin,
    End,
    FailedStreamError,
    Part,
    Record,
    RecordReader,
    RecordWriter,
    write_problem,
)
from service.offload import offload
from service.operations.options import RouteOptions
from service.settings import Limits

PIECES = 4  # of the body, of 64 KiB at most, that wait for the decoder


class BodyStream:
    """The body of a request, piece by piece, and the news that its sender has left.

    Args:
        request: not read so far.
        limits: how long its sender may be silent, and how slow in a crowd.
        place: of the stream, which it may lose to another one while its caller is slow.
    """

    def __init__(self, request: Request, limits: Limits, place: StreamPlace) -> None:
        self._request, self._limits, self.place = request, limits, place
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES)
        self._packed = is_gzip(request)
        self._pump = asyncio.ensure_future(self._read())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return inflated(self._plain()) if self._packed else self._plain()

    async def while_connected(self, work: asyncio.Future[None]) -> None:
        """Wait for work that reads this body, and end it as soon as the client leaves.

        Raises:
            ClientGoneError: the client left; the work is over.
        """
        try:
            await asyncio.wait({work, self._pump}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGoneError
            work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def close(self) -> None:
        """Read no further."""
        self._pump.cancel()

    async def _plain(self) -> AsyncIterator[bytes]:
        while True:
            waiting = [await self._next_piece()]
            while not self._pieces.empty():
                waiting.append(self._pieces.get_nowait())
            if data := b"".join(piece for piece in waiting if piece is not None):
                self.place.size += len(data)
                yield data
            if waiting[-1] is None:
                return

    async def _next_piece(self) -> bytes | None:
        idle_seconds = self._limits.stream_idle_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(idle_seconds) as timer:
                with self.place.waiting(partial(end_wait, timer)):
                    piece = await self._pieces.get()
                if not self.place.gave_way:  # which it may do at the moment when a piece comes
                    return piece
        if self.place.gave_way:
            detail = "All places of streams are taken, and this one's body was the slowest. Send it faster."
            raise ProblemError("slow-body", detail, limit=self._limits.body_bytes_per_second)
        detail = f"No byte of the body arrived for {idle_seconds:g} s."
        raise ProblemError("slow-body", detail, limit=idle_seconds)

    async def _read(self) -> None:
        """Read until the client leaves; a full queue stops reading, and so the sender."""
        ended = False
        with suppress(ClientGoneError):
            while (message := await self._request.receive())["type"] != "http.disconnect":
                if data := message.get("body", b""):
                    await self._pieces.put(data)
                if not ended and not message.get("more_body", False):
                    ended = True
                    await self._pieces.put(None)


class StreamResponse(Response):
    """The answer that sends records while the body is read.

    Its status is 200 once the first record is there; a failure after that is the last record.

    Args:
        body: of the request.
        records: the answer.
        request_id: of the request, for problem documents.
        idle_seconds: without a byte taken, after which the reader counts as gone.
        headers: of the answer, called when the first record is there.
        ending: set once the service ends; None if nobody says so.

    Attributes:
        release: called once nothing of the request is needed any more.
    """

    media_type = MSGPACK_SEQUENCE

    def __init__(
        self,
        body: BodyStream,
        records: AsyncGenerator[Record, None],
        request_id: str,
        idle_seconds: float,
        headers: Callable[[], dict[str, str]],
        ending: asyncio.Event | None,
    ) -> None:
        super().__init__()
        self._body, self._records, self._request_id = body, records, request_id
        self._idle_seconds, self._make_headers, self._ending = idle_seconds, headers, ending
        self._writer = RecordWriter()
        self._first = b""
        self.release = ExitStack()

    async def open(self) -> None:
        """Wait for the first record.

        Raises:
            ProblemError: the request is refused, or the service ends.
            ClientGoneError: the client left first.
        """

        async def first() -> None:
            record = await _next(self._records, self._ending)
            assert record is not None
            self._first = await self._written(record)

        try:
            await self._body.while_connected(asyncio.ensure_future(first()))
        except BaseException as error:
            await self._records.aclose()
            if isinstance(error, FailedStreamError):
                raise self._problem(error) from error
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the records.

        Raises:
            ClientGoneError: the reader left before the end.
        """
        with self.release:
            # A stream that fails reads no further, and its sender could keep the connection for ever.
            self.init_headers(STREAM_HEADERS | {"Connection": "close"} | self._make_headers())
            del self.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._body.while_connected(asyncio.ensure_future(self._send_all(scope, send)))

    async def _send_all(self, scope: Scope, send: Send) -> None:
        write = partial(self._write, send)
        try:
            async with aclosing(self._records) as records:
                await write(self._first)
                while (record := await _next(records, self._ending)) is not None:
                    if isinstance(record, End):
                        scope["state"]["notes"]["frames"] = record.frames  # chunks were counted with their padding
                    await write(await self._written(record))
        except ClientGoneError:
            raise
        except Exception as error:
            problem = self._problem(error)
            scope["state"]["problem"] = problem.code
            await write(write_problem(problem.document(self._request_id)))
        self.release.close()  # the reader may begin its next stream as soon as this one has ended
        await write(b"", more=False)

    async def _write(self, send: Send, data: bytes, more: bool = True) -> None:
        """Send a piece. While its reader is waited for, the stream may lose its place as while its sender is."""
        place = self._body.place
        had_place = not place.gave_way
        try:
            async with asyncio.timeout(None) as timer:
                with place.waiting(partial(end_wait, timer)):
                    await send_piece(send, data, self._idle_seconds, more, place)
        except TimeoutError as error:
            raise ClientGoneError from error
        if place.gave_way and had_place:  # at the moment when the last slice was taken
            raise ClientGoneError

    async def _written(self, record: Record) -> bytes:
        if isinstance(record, Begin):
            return self._writer.begin(record)
        if isinstance(record, Part):
            return await offload(record.array.nbytes, self._writer.part, record)
        return self._writer.end(record.frames, record.meta)

    def _problem(self, failure: Exception) -> ProblemError:
        if isinstance(failure, FailedStreamError):
            return ProblemError("malformed-body", f"The stream that came has failed: {failure}")
        return problem_of(failure, self._request_id)


async def _next(records: AsyncGenerator[Record, None], ending: asyncio.Event | None) -> Record | None:
    """Return the next record, or None after the last.

    Raises:
        ProblemError: `draining`, once the service ends.
    """

    async def following() -> Record | None:
        return await anext(records, None)

    if ending is None:
        return await following()
    coming = asyncio.ensure_future(following())
    end = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait((coming, end), return_when=asyncio.FIRST_COMPLETED)
        if ending.is_set():
            raise ProblemError("draining", "The service stops. Try again.", retry_after_seconds=RETRY_SECONDS)
        return coming.result()
    finally:
        coming.cancel()
        end.cancel()
        await asyncio.gather(coming, end, return_exceptions=True)


@dataclass(frozen=True)
class StreamForm:
    """The form of a route that reads its body while it answers.

    Args:
        takes: media types of the body.
        applies: whether a request asks for this form.
        records: makes the answer of an exchange, the body, its media type and the options.
    """

    takes: tuple[str, ...]
    applies: Callable[[Request], bool]
    records: Callable[[Exchange, BodyStream, str, Any], AsyncGenerator[Record, None]]


async def answer_stream(
    request: Request, services: Services, form: StreamForm, kind: type[RouteOptions]
) -> StreamResponse:
    """Answer a request chunk by chunk.

    Args:
        request: not read so far.
        services: of the application.
        form: of the route.
        kind: the options of its query.

    Raises:
        ProblemError: the request is refused.
        ClientGoneError: the client left first.
    """
    settings = services.settings
    require(request.headers.get("accept"), (MSGPACK_SEQUENCE,), "A stream")
    media_type = content_type_of(request, form.takes).media_type
    options = parse_options(kind, request.scope["query_string"])
    with ExitStack() as stack:
        place = stack.enter_context(services.admission.stream(caller_of(request)))
        body = BodyStream(request, settings.limits, place)
        stack.callback(body.close)
        exchange = Exchange(request, services, 0.0, ChunkDeadline(settings.request_seconds))
        records = form.records(exchange, body, media_type, options)
        ending = request.scope["state"].get("ending")
        idle_seconds = settings.limits.stream_idle_seconds
        response = StreamResponse(body, records, exchange.id, idle_seconds, exchange.used_headers, ending)
        await response.open()
        response.release = stack.pop_all()
        return response


async def read_records(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Record]:
    """Yield the records of a body.

    Args:
        pieces: of the body.
        max_bytes: the most that a part may hold.

    Raises:
        ProblemError: a record is malformed, out of order, missing or damaged.
        FailedStreamError: the stream ends with a problem.
    """
    reader, waiting_bytes = RecordReader(max_bytes), 0
    async for piece in pieces:
        waiting_bytes += len(piece)
        records = reader.feed(piece)
        while record := await offload(waiting_bytes, next, records, None):
            waiting_bytes = len(piece)  # at most: what follows the record came with it
            yield record
    reader.close()
