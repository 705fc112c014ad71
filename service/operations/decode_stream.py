"""Decode while they arrive: tokens or latents of any length become frames part by part, in constant memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.types import DEFAULT_FPS
from service.chunks import ChunkInput, ClipState, latent_frames
from service.errors import ProblemError
from service.formats.records import Begin, Content, End, Part, Record
from service.formats.result import EncodeMeta, EncodeResult
from service.operations.bundles import find_decoder
from service.operations.clip import check_size
from service.operations.decode import checked_codes
from service.operations.encode_stream import require_streaming
from service.operations.options import DecodeOptions
from service.settings import Limits
from service.types import Backend, ModelCard


async def decode_stream(
    backend: Backend,
    records: AsyncIterator[Record],
    options: DecodeOptions,
    limits: Limits,
    chunk_positions: int,
    accept: Callable[[ModelCard], None] = lambda card: None,
    request_id: str | None = None,
) -> AsyncGenerator[Record, None]:
    """Yield the beginning, the pixels and the end of a clip whose codes are read as they are decoded.

    Args:
        backend: the tokenizer tier.
        records: of the codes, as `encode_stream` yields them, from the beginning to the end.
        options: as the caller gave them.
        limits: of each frame.
        chunk_positions: latent positions that are computed at a time; see `latent_frames`.
        accept: called with the bundle before anything is computed; it may raise.
        request_id: of the request, if there is one.

    Raises:
        ProblemError: the codes belong to another bundle, do not fit it or each other, and what the backend raises.
    """
    begin = await anext(records, None)
    if not isinstance(begin, Begin):
        raise ProblemError("malformed-body", "The stream holds no record.")
    card = find_decoder(await backend.models(), options, EncodeMeta(bundle=begin.bundle, model=begin.model))
    require_streaming(card)
    accept(card)
    decoder: _Decoder | None = None
    end = End()
    async for record in records:
        if isinstance(record, End):
            end = record
        if not isinstance(record, Part):
            continue
        first, array = _codes(card, record.content, record.array[:1]), record.array
        if decoder is None:
            decoder = _Decoder(card, first, begin, options, limits)
            height, width = decoder.sides
            fps = options.fps or begin.fps or DEFAULT_FPS
            yield Begin(id=request_id, model=card.id, bundle=card.hash, height=height, width=width, fps=fps)
        decoder.check(first)
        while len(array):  # of a large part no more is checked and converted at a time than is computed
            count = latent_frames(chunk_positions, first.shape[1] * first.shape[2], decoder.state is None)
            chunk, array = ChunkInput(_codes(card, record.content, array[:count]), decoder.state), array[count:]
            decoded = await backend.decode_chunk(card.id, chunk)
            if len(pixels := decoder.take(decoded.array, decoded.state)):
                yield Part("pixels", pixels)
    if decoder is None:
        raise ProblemError("missing-part", "The stream holds neither tokens nor latents.")
    for pixels in decoder.finish(end, options):
        yield Part("pixels", pixels)
    yield End(frames=decoder.given)


class _Decoder:
    """The state of a clip between its parts.

    Args:
        card: the bundle.
        codes: the first ones.
        begin: of the stream.
        options: as the caller gave them.
        limits: of each frame.

    Attributes:
        sides: height and width of the frames, pixels.
        state: of the tokenizer.
        given: frames that have been returned.
    """

    def __init__(
        self, card: ModelCard, codes: NDArray[np.generic], begin: Begin, options: DecodeOptions, limits: Limits
    ) -> None:
        self._card, self._grid = card, codes.shape[1:3]
        _, height, width = card.geometry.size((1, *self._grid))
        height, width = options.height or begin.height or height, options.width or begin.width or width
        check_size(card, (1, height, width), limits)
        if card.geometry.grid((1, height, width))[1:] != self._grid:
            rows, columns = self._grid
            raise ProblemError("bad-grid", f"Frames of {height}x{width} do not have the grid {rows}x{columns}.")
        self.sides = (height, width)
        self.state: ClipState | None = None
        self.given = 0
        self._kept: NDArray[np.uint8] = np.empty((0, height, width, 3), np.uint8)  # the end may cut them off

    def check(self, codes: NDArray[np.generic]) -> None:
        """Refuse codes of another grid.

        Raises:
            ProblemError: `bad-grid`.
        """
        if codes.shape[1:3] != self._grid:
            grids = " and ".join("x".join(map(str, grid)) for grid in (self._grid, codes.shape[1:3]))
            raise ProblemError("bad-grid", f"All parts must have one grid; here are {grids}.")

    def take(self, pixels: NDArray[np.uint8], state: ClipState) -> NDArray[np.uint8]:
        """Return the frames of a chunk that are certain: those that may be padding are kept."""
        self.state = state
        height, width = self.sides
        known = np.concatenate([self._kept, pixels[:, :height, :width]])
        certain = max(0, len(known) - (self._card.temporal_patch - 1))
        self._kept = known[certain:].copy()
        return self._give(known[:certain])

    def finish(self, end: End, options: DecodeOptions) -> list[NDArray[np.uint8]]:
        """Return what was kept, without its padding.

        Raises:
            ProblemError: `bad-grid`.
        """
        assert self.state is not None
        most = self._card.geometry.size((self.state.frames, 1, 1))[0]
        frames = options.frames or end.frames or (end.meta.size.frames if end.meta and end.meta.size else most)
        if self._card.geometry.grid((frames, 1, 1))[0] != self.state.frames:
            raise ProblemError(
                "bad-grid", f"A clip of {frames} frames does not have the {self.state.frames} latent frames that came."
            )
        last = self._give(self._kept[: frames - self.given])
        return [last] if len(last) else []

    def _give(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.given += len(pixels)
        return pixels


def _codes(card: ModelCard, content: Content, array: NDArray[Any]) -> NDArray[Any]:
    if content == "tokens":
        return checked_codes(card, EncodeResult(EncodeMeta(), tokens=array))
    if content == "latents":
        return checked_codes(card, EncodeResult(EncodeMeta(), latents=array))
    raise ProblemError("malformed-body", "A part must hold tokens or latents, not pixels.")
