"""Pixels as bytes: the media types that hold them, and raw arrays; `media.write` compresses pictures and clips."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS
from service.formats.media_types import MSGPACK, NPY
from service.formats.msgpack import pack
from service.formats.npy import write_npy
from service.formats.tensors import pack_tensor
from service.types import ModelCard

RAW = (MSGPACK, NPY)
PIXEL_TYPES = (*IMAGE_OUTPUTS, *VIDEO_OUTPUTS, *RAW)


def pixel_offers(frames: int) -> tuple[str, ...]:
    """Return the media types that can hold this many frames, at least 1, the default first."""
    return PIXEL_TYPES if frames == 1 else (*VIDEO_OUTPUTS, *RAW)


def amount(frames: int) -> str:
    """Return what this many frames are, for the start of a sentence."""
    return "A picture" if frames == 1 else f"A clip of {frames} frames"


def write_raw(pixels: NDArray[np.uint8], media_type: str, fps: float, card: ModelCard) -> bytes:
    """Return the bytes of an array.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        media_type: one of `RAW`.
        fps: rate of a clip, frames per second.
        card: the bundle that made the pixels.
    """
    if media_type == NPY:
        return write_npy(pixels)
    return pack(pixel_map(pixels, fps, card))


def pixel_map(pixels: NDArray[np.uint8], fps: float, card: ModelCard) -> dict[str, Any]:
    """Return pixels as the map of an answer in msgpack; the arguments are those of `write_raw`."""
    return {"pixels": pack_tensor(pixels), "fps": fps, "model": card.id, "bundle": card.hash}
