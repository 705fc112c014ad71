"""Streams of both clients: bodies that are made while they are sent, and arrays that come while the call goes on."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, TypeVar

import httpx
from anyio.from_thread import start_blocking_portal
from numpy.typing import NDArray

from media.faststart import faststart
from service.client.calls import READ_BYTES, Call
from service.client.duplex import DuplexTransport
from service.client.media import content_type
from service.client.retries import RetryRule
from service.formats.media_types import MSGPACK_SEQUENCE, OCTET_STREAM
from service.formats.records import Begin, End, FailedStreamError, Part, Record, RecordReader, RecordWriter
from service.formats.result import EncodeResult

# A video: a path, bytes, a file open in binary mode, or pieces as they become known.
Video: TypeAlias = "str | os.PathLike[str] | bytes | io.BufferedIOBase | Iterable[bytes] | AsyncIterable[bytes]"
CodeParts: TypeAlias = "EncodeResult | Iterable[NDArray[Any]] | AsyncIterable[NDArray[Any]]"


class StreamDecodeOptions(TypedDict, total=False):
    """Options of `decode_stream`; what is left out comes with the codes.

    model: id of a bundle. height, width: size in pixels to crop to. fps: frames per second.
    """

    model: str
    height: int
    width: int
    fps: float


PASSING_PROBLEMS = frozenset({"not-ready", "draining", "overloaded"})  # problems that another attempt may not have
PART_POSITIONS = 2**16

T = TypeVar("T")


@dataclass(frozen=True)
class StreamCall:
    """A call whose body is made while it is sent.

    Args:
        call: without a body.
        body: makes the body, once for each attempt.
        repeatable: whether it can be made again.
    """

    call: Call
    body: Callable[[], AsyncIterator[bytes]]
    repeatable: bool


def encode_stream_call(video: Video, options: Mapping[str, Any]) -> StreamCall:
    """Return the call that encodes a video while it is sent; an MP4 file is sent with its index first.

    Args:
        video, options: as the caller gave them.

    Raises:
        OSError: the file cannot be read.
    """
    media_type, headers = OCTET_STREAM, {"Accept": MSGPACK_SEQUENCE}
    if isinstance(video, str | os.PathLike):
        video = Path(video)
    if isinstance(video, bytes | Path):
        media_type = content_type(video)
        headers["Content-Length"] = str(len(video) if isinstance(video, bytes) else video.stat().st_size)
    call = Call("POST", "/encode", options, headers | {"Content-Type": media_type})
    if isinstance(video, Path):
        path = video
        return StreamCall(call, lambda: _as_async(_file_pieces(path)), repeatable=True)
    if isinstance(video, bytes):
        data = video
        return StreamCall(call, lambda: _as_async(_file_pieces(data)), repeatable=True)
    pieces = iter(lambda: video.read(READ_BYTES), b"") if isinstance(video, io.BufferedIOBase) else video
    return StreamCall(call, lambda: _as_async(pieces), repeatable=False)


def decode_stream_call(
    codes: CodeParts, bundle: str | None, frames: int | None, options: Mapping[str, Any]
) -> StreamCall:
    """Return the call that decodes codes while they are sent.

    Args:
        codes, bundle, frames, options: as the caller gave them.
    """
    call = Call("POST", "/decode", options, {"Content-Type": MSGPACK_SEQUENCE, "Accept": MSGPACK_SEQUENCE})
    return StreamCall(call, lambda: _code_records(codes, bundle, frames), isinstance(codes, EncodeResult))


class AsyncStream:
    """Arrays that come while a call goes on, to be iterated once; leaving the iteration ends the call.

    What fails in passing is tried again if the body can be sent again: the service gives equal inputs equal answers,
    so that what has come already is skipped.

    Args:
        connection: arguments of an httpx client.
        call: to make.
        rule: of retries.
        sleep: how to wait between attempts, seconds.

    Attributes:
        begin: the description of the arrays, known when the first one comes.
        end: the description of all of it, known after the last one.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        call: StreamCall,
        rule: RetryRule,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._connection, self._call, self._sleep = connection, call, sleep
        self._rule = rule if call.repeatable else RetryRule(0)
        self.begin: Begin | None = None
        self.end: End | None = None
        self._arrays = self._run()

    def __aiter__(self) -> AsyncGenerator[NDArray[Any], None]:
        return self._arrays

    async def aclose(self) -> None:
        """End the call."""
        await self._arrays.aclose()

    async def _run(self) -> AsyncGenerator[NDArray[Any], None]:
        done = attempt = 0
        async with httpx.AsyncClient(**self._connection, transport=DuplexTransport()) as http:
            while self.end is None:
                seen = 0
                try:
                    async with aclosing(self._records(http)) as records:
                        async for record in records:
                            if isinstance(record, Begin):
                                self.begin = record
                            elif isinstance(record, End):
                                self.end = record
                            else:
                                fresh = record.array[max(0, done - seen) :]
                                seen += len(record.array)
                                if len(fresh):
                                    done, attempt = seen, 0
                                    yield fresh
                except (httpx.HTTPError, _RefusedError, FailedStreamError) as error:
                    await self._sleep(self._wait(attempt, error))
                    attempt += 1

    def _wait(self, attempt: int, error: Exception) -> float:
        if isinstance(error, httpx.HTTPError):
            return self._rule.wait(attempt, error)
        if isinstance(error, _RefusedError):
            return self._rule.wait(attempt, error.response)
        assert isinstance(error, FailedStreamError)
        return self._rule.wait_after(attempt, error.document, error.document.get("code") in PASSING_PROBLEMS)

    async def _records(self, http: httpx.AsyncClient) -> AsyncGenerator[Record, None]:
        request = http.build_request(**self._call.call.arguments(), content=self._call.body())
        response = await http.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise _RefusedError(response)
            reader = RecordReader()
            async for data in response.aiter_bytes():
                for record in reader.feed(data):
                    yield record
            if not reader.ended:
                raise httpx.RemoteProtocolError("The stream broke off before its end.", request=request)
        finally:
            await response.aclose()


class Stream:
    """An `AsyncStream` for callers that block. Its call runs on a thread of its own while the iteration goes on.

    Args:
        make: makes the stream.
    """

    def __init__(self, make: Callable[[], AsyncStream]) -> None:
        self._stream = make()
        self._arrays = self._run()

    @property
    def begin(self) -> Begin | None:
        """Return the description of the arrays, known when the first one comes."""
        return self._stream.begin

    @property
    def end(self) -> End | None:
        """Return the description of all of it, known after the last array."""
        return self._stream.end

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return self._arrays

    def close(self) -> None:
        """End the call."""
        self._arrays.close()

    def _run(self) -> Generator[NDArray[Any], None, None]:
        arrays = aiter(self._stream)

        async def following() -> NDArray[Any] | None:
            return await anext(arrays, None)

        with start_blocking_portal() as portal:
            try:
                while (array := portal.call(following)) is not None:
                    yield array
            finally:
                portal.call(self._stream.aclose)


class _RefusedError(Exception):
    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def _file_pieces(source: Path | bytes) -> Iterator[bytes]:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        for span in faststart(file):
            yield from span.pieces(file, READ_BYTES)


async def _as_async(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield items of any iterable; one that blocks does so on a thread."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    iterator, nothing = iter(items), object()
    while (found := await asyncio.to_thread(next, iterator, nothing)) is not nothing:
        yield found  # type: ignore[misc]


async def _code_records(codes: CodeParts, bundle: str | None, frames: int | None) -> AsyncIterator[bytes]:
    writer = RecordWriter()
    parts = _result_parts(codes) if isinstance(codes, EncodeResult) else codes
    begun = False
    async for array in _as_async(parts):
        if not begun:
            begun = True
            yield writer.begin(_described(codes, bundle))
        yield writer.part(Part("latents" if array.dtype.kind == "f" else "tokens", array))
    yield writer.end(frames or _frames(codes))


def _result_parts(result: EncodeResult) -> Iterator[NDArray[Any]]:
    codes = result.latents if result.tokens is None else result.tokens
    assert codes is not None
    step = max(1, PART_POSITIONS // (codes.shape[1] * codes.shape[2]))
    return (codes[start : start + step] for start in range(0, len(codes), step))


def _described(codes: CodeParts, bundle: str | None) -> Begin:
    """Return what codes and their caller say of them."""
    known: dict[str, Any] = {}
    if isinstance(codes, EncodeResult):
        known = codes.meta.model_dump(include={"model", "bundle", "fps"})
        known |= codes.meta.size.model_dump(include={"height", "width"}) if codes.meta.size else {}
    elif isinstance(codes, Stream | AsyncStream) and codes.begin is not None:
        known = codes.begin.model_dump(include={"model", "bundle", "height", "width", "fps"})
    return Begin(**(known if bundle is None else known | {"bundle": bundle}))


def _frames(codes: CodeParts) -> int | None:
    if isinstance(codes, EncodeResult):
        return codes.meta.size.frames if codes.meta.size else None
    return codes.end.frames if isinstance(codes, Stream | AsyncStream) and codes.end else None
