"""Pixels on their way into and out of the use cases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from media.types import MediaOptions, Preprocess, SourceInfo
from service.errors import ProblemError
from service.formats.pixels import RAW, write_raw
from service.sandbox.pool import MediaPool
from service.settings import Limits
from service.types import ModelCard, Size


@dataclass(frozen=True)
class ClipInfo:
    """The description of pixels that are encoded.

    Args:
        size: frames, height and width.
        fps: their rate, frames per second; None for a picture.
        source, preprocess: the file that they came from and the steps since, None for an array.
    """

    size: Size
    fps: float | None = None
    source: SourceInfo | None = None
    preprocess: Preprocess | None = None


@dataclass(frozen=True)
class Clip:
    """Pixels ready for the model: uint8 RGB (T, H, W, 3), and the time spent on decoding their media, milliseconds."""

    pixels: NDArray[np.uint8]
    info: ClipInfo
    decode_ms: float = 0.0

    @classmethod
    def of_array(cls, pixels: NDArray[np.uint8]) -> Clip:
        """Return a clip of uint8 RGB pixels (T, H, W, 3) as they are."""
        frames, height, width = pixels.shape[:3]
        return cls(pixels, ClipInfo((frames, height, width)))


async def read_clip(media: MediaPool, data: bytes, declared: str | None, options: MediaOptions) -> Clip:
    """Decode a picture or a clip in the sandbox.

    Args:
        media: the pool of decoders.
        data: the whole file.
        declared: the media type that its sender claims, or None.
        options: size, window and sampling.

    Raises:
        ProblemError: for anything wrong with the media.
    """
    started = time.perf_counter()
    frames = await media.decode(data, declared, options)
    count, height, width = frames.pixels.shape[:3]
    info = ClipInfo((count, height, width), frames.source.kept_fps, frames.source, frames.preprocess)
    return Clip(frames.pixels, info, 1000 * (time.perf_counter() - started))


def check_size(card: ModelCard, size: Size, limits: Limits) -> int:
    """Return the number of latent positions of a clip.

    Raises:
        ProblemError: `too-many-tokens`, `too-many-frames`.
    """
    t, h, w = card.geometry.grid(size)
    if t * h * w > limits.tokens:
        detail = f"the grid {t}x{h}x{w} is over {limits.tokens} positions; use a smaller size or fewer frames"
        raise ProblemError("too-many-tokens", detail, limits.tokens, t * h * w)
    if size[0] > limits.kept_frames:
        detail = f"a request has at most {limits.kept_frames} frames"
        raise ProblemError("too-many-frames", detail, limits.kept_frames, size[0])
    return t * h * w


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
