"""Reconstruct: a picture or a clip through the tokenizer and back, and how much of it came through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.metrics.psnr import psnr
from service.operations.clip import Clip
from service.types import Backend, ModelCard, Timing


@dataclass(frozen=True)
class Reconstruction:
    """Pixels that went through a tokenizer: uint8 RGB (T, H, W, 3), and the PSNR of each frame, dB."""

    pixels: NDArray[np.uint8]
    psnr: NDArray[np.float64]
    timing: Timing


async def reconstruct(backend: Backend, card: ModelCard, clip: Clip) -> Reconstruction:
    """Encode and decode a clip in one visit, and compare.

    Raises:
        ProblemError: what the backend raises.
    """
    decoded = await backend.reconstruct(card.id, clip.pixels)
    quality = await asyncio.to_thread(psnr, clip.pixels, decoded.pixels)
    return Reconstruction(decoded.pixels, quality, decoded.timing)
