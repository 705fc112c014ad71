"""Pixels as answers: pictures, clips and raw frames."""

from __future__ import annotations

import asyncio
import io

import numpy as np
from numpy.typing import NDArray

from service.result import MSGPACK, NPY
from service.sandbox.pool import MediaPool
from service.types import ModelCard
from service.wire import pack, pack_tensor

PICTURES = ("image/png", "image/jpeg", "image/webp")
CLIPS = ("video/mp4", "video/webm", "image/gif")
RAW = (MSGPACK, NPY)
DEFAULT_FPS = 25.0


def pixel_offers(frames: int) -> tuple[str, ...]:
    """Media types that can hold this many frames, the default first.

    Args:
        frames: at least 1.
    """
    return (*PICTURES, *CLIPS, *RAW) if frames == 1 else (*CLIPS, *RAW)


async def render(
    pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None, card: ModelCard, media: MediaPool
) -> bytes:
    """The body of an answer that consists of pixels.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        media_type: one of `pixel_offers(T)`.
        fps: rate of a clip, frames per second.
        quality: 1 to 100 for lossy pictures, or None for the default.
        card: the bundle that made the pixels.
        media: the pool that compresses pictures and clips.
    """
    if media_type in RAW:
        return await asyncio.to_thread(_raw, pixels, media_type, fps, card)
    return await media.encode(pixels, media_type, fps, quality)


def _raw(pixels: NDArray[np.uint8], media_type: str, fps: float, card: ModelCard) -> bytes:
    if media_type == NPY:
        file = io.BytesIO()
        np.save(file, pixels, allow_pickle=False)
        return file.getvalue()
    return pack({"pixels": pack_tensor(pixels), "fps": fps, "model": card.id, "bundle": card.hash})
