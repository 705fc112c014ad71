"""The frames of a clip that arrives, for an event loop: decoded as they are read, with a pause after each step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from media.identify import HEAD_BYTES
from model.geometry import Size
from service.chunks import StreamDescription
from service.errors import ProblemError
from service.sandbox.clip_decoder import ClipDecoder, Stop
from service.sandbox.ipc import ClosedError
from service.sandbox.process import OutOfMemoryError

Turn = Callable[[Callable[[], Stop], Callable[[], None]], Awaitable[Stop]]  # runs a step, given how to cut it short

_PIECE_BYTES = 2**18  # of a video these are about ten frames, a tenth of a second of work
_PATIENCE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.25


class FrameStream:
    """A `types.FrameStream` over a decoder process.

    Args:
        decoder: of this clip alone, which has begun.
        turn: waits for a place among all that decode, and runs a step there.
        pieces: of the file.
        lost: called with the reason if the process is lost.
    """

    def __init__(
        self, decoder: ClipDecoder, turn: Turn, pieces: AsyncIterator[bytes], lost: Callable[[str], None]
    ) -> None:
        self._decoder, self._turn, self._lost = decoder, turn, lost
        self._pieces = _split(pieces)
        self._stop: Stop | None = None

    @property
    def description(self) -> StreamDescription:
        """Return what is known of the clip."""
        return self._decoder.description

    async def open(self) -> Size:
        """Decode up to the first frame; return 1 and the height and width of all frames.

        Raises:
            ProblemError: anything that is wrong with the file.
        """
        await self._run()
        if self._stop != "begin":
            raise ProblemError("corrupt-media", "None of the frames of the file can be decoded.")
        return (1, *self._decoder.shape)

    async def read(self, frames: int) -> NDArray[np.uint8]:
        """Return the next frames, uint8 RGB (n, H, W, 3); fewer than were asked for at the end alone.

        Raises:
            ProblemError: anything that is wrong with the file.
        """
        if self._stop != "end":
            self._decoder.make_room(frames)
            await self._run()
        return self._decoder.take_part()

    async def _run(self) -> None:
        piece: bytes | None = None
        while True:
            self._stop = await self._step(piece)
            if self._stop != "want":
                return
            piece = await anext(self._pieces, b"")

    async def _step(self, piece: bytes | None) -> Stop:
        """Wait for a turn, longer than a short request would."""
        patience = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._turn(lambda: self._guarded(piece), self._decoder.kill)
            except ProblemError as problem:
                if problem.code != "overloaded" or asyncio.get_running_loop().time() > patience:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause *= 2

    def _guarded(self, piece: bytes | None) -> Stop:
        """Run a step; the loss of the process becomes a problem."""
        try:
            return self._decoder.step(piece)
        except TimeoutError:
            self._lost("timeout")
            detail = "A part of the clip took longer to decode than it may."
            raise ProblemError("decode-budget", detail, limit=self._decoder.limits.decode_seconds) from None
        except OutOfMemoryError:
            self._lost("memory")
            raise ProblemError("decode-budget", "The clip took more memory than it may.") from None
        except ClosedError:
            if self._decoder.killed:  # by us: nobody waits for the step any more, and no process replaces it
                raise ProblemError("draining", "The clip was given up.") from None
            reason = self._decoder.reap()
            self._lost(reason)
            if reason == "cpu":
                raise ProblemError("decode-budget", "A part of the clip took more CPU time than it may.") from None
            if reason == "killed":
                detail = "The process that decoded the clip was ended. Try again."
                raise ProblemError("not-ready", detail, retry_after_seconds=1) from None
            raise ProblemError("corrupt-media", "The file crashed the decoder.") from None


async def with_head(pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Return the first bytes of a file, and its pieces from the first on.

    Raises:
        ProblemError: `malformed-body`.
    """
    head = bytearray()
    async for piece in pieces:
        head += piece
        if len(head) >= HEAD_BYTES:
            break
    if not head:
        raise ProblemError("malformed-body", "The body is empty: 0 bytes arrived.")

    async def all_pieces() -> AsyncIterator[bytes]:
        yield bytes(head)
        async for piece in pieces:
            yield piece

    return bytes(head[:HEAD_BYTES]), all_pieces()


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces of which none takes a long turn."""
    async for piece in pieces:
        for start in range(0, len(piece), _PIECE_BYTES):
            yield piece[start : start + _PIECE_BYTES]
