"""Reconstruct: a picture or a clip through the tokenizer and back, and how much of it came through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from media.types import DEFAULT_FPS
from model.metrics.psnr import psnr
from service.operations.bundles import find_card
from service.operations.clip import ClipSource, PixelResult, check_size
from service.operations.options import ReconstructOptions
from service.settings import Limits
from service.types import Backend, Media, ModelCard


@dataclass(frozen=True)
class Reconstruction(PixelResult):
    """Pixels that went through a tokenizer.

    Args:
        original: the pixels before, uint8 RGB (T, H, W, 3).
        psnr: of each frame, dB.
        decode_ms: time spent on decoding the media.
    """

    original: NDArray[np.uint8]
    psnr: NDArray[np.float64]
    decode_ms: float

    def side_by_side(self) -> PixelResult:
        """Return frames of twice the width: the original left, the reconstruction right."""
        pair = np.concatenate([self.original, self.pixels], axis=2)
        return PixelResult(self.card, pair, self.fps, self.timing)


async def reconstruct(
    backend: Backend,
    media: Media,
    source: ClipSource,
    options: ReconstructOptions,
    limits: Limits,
    accept: Callable[[ModelCard, int | None], None] = lambda card, frames: None,
) -> Reconstruction:
    """Encode and decode a picture or a clip in one visit, and compare.

    Args:
        backend: the tokenizer tier.
        media: the pool of decoders.
        source: the picture or the clip.
        options: as the caller gave them.
        limits: of one request.
        accept: called with the bundle before media are read, and again with the number of frames before they are
            computed; it may raise.

    Raises:
        ProblemError: for anything wrong with the media or the options, and what the backend raises.
    """
    card = find_card(await backend.models(), options.model)
    accept(card, None)
    clip = await source.read(media, options)
    check_size(card, clip.info.size, limits)
    accept(card, clip.info.size[0])
    decoded = await backend.reconstruct(card.id, clip.pixels)
    quality = await asyncio.to_thread(psnr, clip.pixels, decoded.pixels)
    fps = options.fps or clip.info.fps or DEFAULT_FPS
    return Reconstruction(card, decoded.pixels, fps, decoded.timing, clip.pixels, quality, clip.decode_ms)
