"""Request bodies, read piece by piece under a cap of bytes and a cap of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request

from media.identify import IMAGE_TYPES, VIDEO_TYPES
from service.api.admission import SLOW_BODY_SECONDS, Place
from service.api.content_encoding import inflated, is_gzip
from service.api.content_length import content_length
from service.api.content_type import MULTIPART, ContentType, content_type_of
from service.api.deadline import Deadline
from service.api.errors import ClientGoneError
from service.api.transfer import end_wait
from service.errors import ProblemError
from service.formats.media_types import JSON, OCTET_STREAM
from service.offload import offload
from service.settings import Limits

MULTIPART_OVERHEAD = 2**16


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


def _too_large(cap: int, actual: int) -> ProblemError:
    return ProblemError(
        "body-too-large", f"A body of this type may have {cap} bytes, not {actual}.", limit=cap, actual=actual
    )
