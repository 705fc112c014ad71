"""Answers in slices, to readers that may be slow."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from service.api.errors import ClientGoneError
from service.api.transfer import Transfer

SLICE_BYTES = 2**18  # of an answer; a server takes the next one when this one has left
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # or nginx would hold a stream back


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
