"""Pixels as answers: pictures, clips and raw frames."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from service.formats.pixels import RAW, write_raw
from service.sandbox.pool import MediaPool
from service.types import ModelCard


async def render(
    pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None, card: ModelCard, media: MediaPool
) -> bytes:
    """Return the body of an answer that consists of pixels.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        media_type: one of `pixel_offers(T)`.
        fps: rate of a clip, frames per second.
        quality: 1 to 100 for lossy pictures, or None for the default.
        card: the bundle that made the pixels.
        media: the pool that compresses pictures and clips.
    """
    if media_type in RAW:
        return await asyncio.to_thread(write_raw, pixels, media_type, fps, card)
    return await media.encode(pixels, media_type, fps, quality)
