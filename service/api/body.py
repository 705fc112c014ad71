"""Request bodies, read piece by piece under a cap of bytes and a cap of time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Send

from media.identify import FAMILIES, IMAGE_TYPES, VIDEO_TYPES
from service.api.admission import SLOW_BODY_SECONDS, Place
from service.api.content_length import content_length
from service.api.deadline import Deadline
from service.api.errors import ClientGoneError
from service.api.negotiation import MSGPACK_ALIASES
from service.api.transfer import Transfer, end_wait
from service.errors import ProblemError
from service.formats.media_types import JSON, OCTET_STREAM
from service.offload import offload
from service.settings import Limits

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART_OVERHEAD = 2**16
MAX_CONTENT_TYPE = 512
ALIASES = MSGPACK_ALIASES | FAMILIES
GZIP_NAMES = ("gzip", "x-gzip")
GZIP_BITS = 31  # zlib's name for a gzip header and the largest window
INFLATED_BYTES = 2**20  # of one step, between which other requests are served and the limits are checked

SLICE_BYTES = 2**18  # of an answer; a server takes the next one when this one has left
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # or nginx would hold a stream back


T = TypeVar("T")


@dataclass(frozen=True)
class ContentType:
    """A media type in lower case, aliases resolved, and the boundary of a multipart body."""

    media_type: str
    boundary: bytes | None = None


@dataclass(frozen=True)
class Body:
    """A whole request body and what it says it is."""

    content_type: ContentType
    data: bytes


@dataclass(frozen=True)
class BodyKind:
    """A kind of request body, from which reading, parsing and OpenAPI derive.

    Args:
        types: media types of the whole body.
        part: the part of a multipart body that holds the same; the other is `options`.
        unlabelled_bytes: the most bytes of a body whose type is found by its content.
        parse: the parser of a whole body; its result has the `options` of the body.
        maps: those of `types` whose bodies are maps.
        schema: OpenAPI schema of these maps.
        optional: whether a request may have no body.
        inline: those of `types` whose parsers do little for each byte, and need no thread for a small body.
    """

    types: tuple[str, ...]
    part: str
    unlabelled_bytes: Callable[[Limits], int]
    parse: Callable[[Body, Limits], Any]
    maps: tuple[str, ...]
    schema: dict[str, Any]
    optional: bool = False
    inline: frozenset[str] = frozenset()


def parse_content_type(header: str | None, supported: tuple[str, ...]) -> ContentType:
    """Parse a `Content-Type` header; none at all means bytes that are sniffed.

    Args:
        header: its value, of a request or of a part of one.
        supported: the media types that are understood here.

    Raises:
        ProblemError: `unsupported-media-type`, listing `supported`.
    """
    if header is None:
        return ContentType(OCTET_STREAM)
    name, parameters = parse_options_header(header[:MAX_CONTENT_TYPE])
    media_type = name.decode("latin-1").strip().lower()
    if media_type not in supported:
        media_type = ALIASES.get(media_type, media_type)
    if media_type not in supported:
        hint = ""
        if media_type == URLENCODED:  # what curl says of a body unless it is given a type
            hint = f" With curl, -H 'Content-Type: {OCTET_STREAM}' has the service look at the bytes."
        raise ProblemError("unsupported-media-type", f"Send one of {', '.join(supported)}.{hint}")
    return ContentType(media_type, parameters.get(b"boundary") if media_type == MULTIPART else None)


def content_type_of(request: Request, supported: tuple[str, ...]) -> ContentType:
    """Return the content type of a request; arguments and errors as `parse_content_type`, and `bad-header`."""
    if len(request.headers.getlist("content-type")) > 1:
        raise ProblemError("bad-header", "Content-Type occurs more than once. Send it once.")
    return parse_content_type(request.headers.get("content-type"), supported)


def byte_cap(media_type: str, limits: Limits, unlabelled: int) -> int:
    """Return the most bytes that a body of this type may have.

    Args:
        media_type: a supported type.
        limits: the service's limits.
        unlabelled: the most bytes of a body whose type is found by its content.
    """
    if media_type == JSON:
        return limits.json_bytes
    if media_type in IMAGE_TYPES:
        return limits.image_bytes
    if media_type in VIDEO_TYPES:
        return limits.video_bytes
    if media_type == OCTET_STREAM:
        return unlabelled
    return unlabelled + MULTIPART_OVERHEAD if media_type == MULTIPART else limits.tensor_bytes


async def read_body(request: Request, kind: BodyKind, limits: Limits, place: Place, deadline: Deadline) -> Body:
    """Read the body of a request.

    Args:
        request: not read so far.
        kind: of the body.
        limits: caps of bytes and seconds.
        place: takes the size of each piece before it is kept.
        deadline: of the request.

    Raises:
        ProblemError: `unsupported-media-type`, `unsupported-encoding`, `bad-header`, `body-too-large`, `slow-body`,
            `deadline-exceeded`, `overloaded`, or `malformed-body` for an empty one or broken gzip.
        ClientGoneError: the connection closed first.
    """
    packed = is_gzip(request)
    content_type = content_type_of(request, kind.types)
    cap = byte_cap(content_type.media_type, limits, kind.unlabelled_bytes(limits))
    declared = declared_bytes(request)
    if declared > cap:
        raise _too_large(cap, declared)
    place.expect(declared)
    pieces: list[bytes] = []
    size = 0
    clock = asyncio.get_running_loop().time
    started = clock()
    end = started + min(limits.body_seconds, deadline.left())
    try:
        async with asyncio.timeout_at(min(end, started + SLOW_BODY_SECONDS)) as timer:
            place.give_way = partial(end_wait, timer)
            async for chunk in inflated(request.stream()) if packed else request.stream():
                size += len(chunk)
                if size > cap:
                    raise _too_large(cap, size)
                place.take(len(chunk))
                pieces.append(chunk)
                if place.give_way is not None:
                    most = SLOW_BODY_SECONDS + size / limits.body_bytes_per_second
                    timer.reschedule(min(end, started + most))
    except TimeoutError as error:
        if not deadline.left():
            raise deadline.passed("The body had not arrived") from error
        detail = (
            f"The body must arrive within {limits.body_seconds:g} s, and with {limits.body_bytes_per_second:g} bytes a "
            f"second or more after the first {SLOW_BODY_SECONDS:g} s. In a crowd the slowest gives way earlier."
        )
        raise ProblemError("slow-body", detail, limit=limits.body_seconds) from error
    except ClientDisconnect as error:
        raise ClientGoneError from error
    place.arrived()
    if not size and not kind.optional:
        raise ProblemError("malformed-body", "The body is empty: 0 bytes arrived.")
    return Body(content_type, await offload(size, b"".join, pieces))


def declared_bytes(request: Request) -> int:
    """Return the size of a body by its header, 0 without one.

    Raises:
        ProblemError: `bad-header`.
    """
    declared = content_length(request.headers.get("content-length", "0"))
    if declared is None:
        raise ProblemError("bad-header", "Content-Length must be a number of bytes, in decimal digits.")
    return declared


def is_gzip(request: Request) -> bool:
    """Return whether the body is compressed.

    Raises:
        ProblemError: `unsupported-encoding`.
    """
    names = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    encodings = [name.strip() for name in names if name.strip() not in ("", "identity")]
    if encodings and (len(encodings) > 1 or encodings[0] not in GZIP_NAMES):
        raise ProblemError("unsupported-encoding", "Send the body with the content encoding gzip, or without one.")
    return bool(encodings)


async def inflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Inflate a gzip body in steps of bounded size, so that a small body cannot become a large one unseen."""
    inflater = zlib.decompressobj(GZIP_BITS)
    try:
        async for chunk in chunks:
            rest = chunk
            while rest and not inflater.eof:
                yield await asyncio.to_thread(inflater.decompress, rest, INFLATED_BYTES)
                rest = inflater.unconsumed_tail
            if inflater.unused_data or rest:
                raise ProblemError("malformed-body", "Bytes follow the end of the gzip body. Send one member.")
        tail = inflater.flush()
    except zlib.error as error:
        raise ProblemError("malformed-body", "The body is not gzip, as its Content-Encoding says.") from error
    if not inflater.eof:
        raise ProblemError("malformed-body", "The gzip body ends early. Send the whole of it.")
    yield tail


async def send_piece(
    send: Send, data: bytes, stall_seconds: float, more: bool = True, transfer: Transfer | None = None
) -> None:
    """Send a piece of an answer, in slices: a slow reader of a large piece is not one that takes nothing.

    Args:
        send: of the server.
        data: the piece.
        stall_seconds: without a slice taken, after which the reader counts as gone.
        more: whether another piece follows.
        transfer: counts the bytes that were taken.

    Raises:
        ClientGoneError: its reader takes no slice for `stall_seconds`.
    """
    for start in range(0, max(1, len(data)), SLICE_BYTES):
        piece, follows = data[start : start + SLICE_BYTES], more or start + SLICE_BYTES < len(data)
        await send_slice(send, piece, stall_seconds, follows)
        if transfer is not None:
            transfer.size += len(piece)


async def send_slice(send: Send, data: bytes, stall_seconds: float, more: bool = True) -> None:
    """Send one message of an answer; arguments and errors as for `send_piece`."""
    try:
        async with asyncio.timeout(stall_seconds):
            await send({"type": "http.response.body", "body": data, "more_body": more})
    except TimeoutError as error:
        raise ClientGoneError from error


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


def _too_large(cap: int, actual: int) -> ProblemError:
    return ProblemError(
        "body-too-large", f"A body of this type may have {cap} bytes, not {actual}.", limit=cap, actual=actual
    )
