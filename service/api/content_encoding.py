"""The header `Content-Encoding`, and gzip bodies."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from service.errors import ProblemError

GZIP_NAMES = ("gzip", "x-gzip")
GZIP_BITS = 31  # zlib's name for a gzip header and the largest window
INFLATED_BYTES = 2**20  # of one step, between which other requests are served and the limits are checked


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
