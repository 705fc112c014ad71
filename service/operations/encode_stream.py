"""Encode while it arrives: a video of any length becomes tokens or latents part by part, in constant memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from service.chunks import ChunkInput, ClipState, FrameStream, latent_frames
from service.errors import ProblemError
from service.formats.records import Begin, End, Part, Record
from service.formats.result import TimingMeta
from service.operations.clip import ClipInfo, check_size
from service.operations.encode import EncodePlan, plan_encode
from service.operations.options import EncodeOptions
from service.settings import Limits
from service.types import Backend, Media, ModelCard


async def encode_stream(
    backend: Backend,
    media: Media,
    pieces: AsyncIterator[bytes],
    declared: str | None,
    options: EncodeOptions,
    limits: Limits,
    chunk_positions: int,
    accept: Callable[[ModelCard], None] = lambda card: None,
    request_id: str | None = None,
) -> AsyncGenerator[Record, None]:
    """Yield the beginning, the codes and the end of a video that is read as it is encoded.

    The codes of all parts together are those of the whole video. The next frames are decoded while the last ones are
    encoded, and no further: whoever reads slowly slows both.

    Args:
        backend: the tokenizer tier.
        media: the pool of decoders.
        pieces: of the file.
        declared: the media type that its sender claims, or None.
        options: as the caller gave them.
        limits: of each frame.
        chunk_positions: latent positions that are computed at a time; see `latent_frames`.
        accept: called with the bundle before anything is read; it may raise.
        request_id: of the request, if there is one.

    Raises:
        ProblemError: for anything wrong with the file or the options, and what the backend raises.
    """
    started = time.perf_counter()
    plan = plan_stream(plan_encode(await backend.models(), options))
    card = plan.card
    accept(card)
    async with media.stream(pieces, declared, options.media()) as frames:
        _, height, width = await frames.open()
        positions = check_size(card, (1, height, width), limits, "Use a smaller size.")
        known = frames.description
        yield Begin(
            id=request_id,
            model=card.id,
            bundle=card.hash,
            kind=card.kind,
            codebook_size=card.codebook_size,
            height=height,
            width=width,
            fps=known.fps,
            preprocess=known.preprocess,
        )
        step = card.temporal_patch * latent_frames(chunk_positions, positions)
        state: ClipState | None = None
        count, queue_ms, compute_ms = 0, 0.0, 0.0
        async with aclosing(_read_ahead(frames, step)) as chunks:
            async for pixels, final in chunks:
                encoded = await backend.encode_chunk(card.id, ChunkInput(pixels, state, final))
                state = encoded.state
                count += len(pixels)
                queue_ms += encoded.queue_ms
                compute_ms += encoded.compute_ms
                if len(encoded.array):
                    yield _part(card, encoded.array)
        known = frames.description
        timing = TimingMeta(
            decode_ms=0.0, queue_ms=queue_ms, compute_ms=compute_ms, total_ms=1000 * (time.perf_counter() - started)
        )
        clip = ClipInfo((count, height, width), known.fps, known.source, known.preprocess)
        yield End(frames=count, meta=plan.meta(clip, request_id, timing))


def plan_stream(plan: EncodePlan) -> EncodePlan:
    """Return the plan if its bundle can carry it out part by part.

    Raises:
        ProblemError: `invalid-options`.
    """
    require_streaming(plan.card)
    own = "tokens" if plan.card.kind == "vq" else "latents"
    if plan.want != own:
        raise ProblemError.of_option("output", f"A stream of {plan.card.id} holds {own} alone.")
    return plan


def require_streaming(card: ModelCard) -> None:
    """Check that a bundle takes clips part by part.

    Raises:
        ProblemError: `invalid-options`.
    """
    if not card.streaming:
        raise ProblemError.of_option("model", f"The bundle {card.id} takes whole clips only. Send the clip whole.")


def _part(card: ModelCard, codes: NDArray[np.int32] | NDArray[np.float32]) -> Part:
    if card.codebook_size is None:
        return Part("latents", codes)
    return Part("tokens", codes.astype(np.uint16) if card.codebook_size <= 2**16 else codes)


async def _read_ahead(frames: FrameStream, step: int) -> AsyncGenerator[tuple[NDArray[np.uint8], bool], None]:
    """Yield chunks that fill whole latent frames, and whether they are the last; one more is read meanwhile."""
    wanted = 1 + step  # the first frame of a clip has a latent frame of its own
    reading = asyncio.ensure_future(frames.read(wanted))
    try:
        while len(pixels := await reading):
            final = len(pixels) < wanted
            if not final:
                wanted = step
                reading = asyncio.ensure_future(frames.read(wanted))
            yield pixels, final
            if final:
                return
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
