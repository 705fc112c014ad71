"""Pixels on their way into and out of the use cases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from media.limits import check_kept
from media.types import Preprocess, SourceInfo
from service.errors import ProblemError
from service.formats.pixels import RAW, write_raw
from service.operations.options import MediaRequest
from service.settings import Limits
from service.types import Media, ModelCard, Size, Timing, size_of


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
    """Pixels ready for the model.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        info: what they are.
        decode_ms: that their media waited for a worker and were decoded, milliseconds.
    """

    pixels: NDArray[np.uint8]
    info: ClipInfo
    decode_ms: float = 0.0


@dataclass(frozen=True)
class ClipSource:
    """A picture or a clip of anyone: a file or an array.

    Args:
        media: the bytes of a whole file, or None.
        declared: the media type that its sender claims, or None.
        array: uint8 RGB (T, H, W, 3) where there is no file, or None.
    """

    media: bytes | None = None
    declared: str | None = None
    array: NDArray[np.uint8] | None = None

    async def read(self, media: Media, options: MediaRequest) -> Clip:
        """Return the pixels to encode; a file is decoded in the sandbox.

        Raises:
            ProblemError: for anything wrong with the media, and for options that an array does not take.
        """
        if self.media is None:
            assert self.array is not None
            options.refuse_media_options()
            return Clip(self.array, ClipInfo(size_of(self.array)))
        started = time.perf_counter()
        frames = await media.decode(self.media, self.declared, options.media())
        info = ClipInfo(size_of(frames.pixels), frames.source.kept_fps, frames.source, frames.preprocess)
        # A worker is believed as far as the clock goes.
        return Clip(frames.pixels, info, 1000 * min(frames.seconds, time.perf_counter() - started))


@dataclass(frozen=True)
class PixelResult:
    """Pixels that a tokenizer made.

    Args:
        card: the bundle.
        pixels: uint8 RGB (T, H, W, 3).
        fps: rate of a clip, frames per second.
        timing: of the tokenizer tier.
    """

    card: ModelCard
    pixels: NDArray[np.uint8]
    fps: float
    timing: Timing

    async def render(self, media: Media, media_type: str, quality: int | None) -> bytes:
        """Return the pixels as a file.

        Args:
            media: the pool that compresses pictures and clips.
            media_type: one of `pixel_offers(T)`.
            quality: 1 to 100 for lossy pictures, or None for the default.
        """
        if media_type in RAW:
            return await asyncio.to_thread(write_raw, self.pixels, media_type, self.fps, self.card)
        return await media.encode(self.pixels, media_type, self.fps, quality)


def check_array(size: Size, limits: Limits) -> None:
    """Refuse an array of pixels that is larger than a file may become.

    Raises:
        ProblemError: `too-many-pixels`.
        MediaError: `too-many-frames`, `too-many-pixels`.
    """
    frames, height, width = size
    if height * width > limits.kept_pixels:
        detail = f"A frame may have {limits.kept_pixels} pixels; this one has {height}x{width}. Send smaller frames."
        raise ProblemError("too-many-pixels", detail, limits.kept_pixels, height * width)
    check_kept(limits, frames, height * width)


def check_size(card: ModelCard, size: Size, limits: Limits, remedy: str = "Use a smaller size or fewer frames.") -> int:
    """Return the number of latent positions of a clip.

    Raises:
        ProblemError: `too-many-tokens`, `too-many-frames`.
    """
    t, h, w = card.geometry.grid(size)
    if t * h * w > limits.tokens:
        detail = f"The grid {t}x{h}x{w} is over {limits.tokens} positions."
        raise ProblemError("too-many-tokens", " ".join((detail, remedy)), limits.tokens, t * h * w)
    if size[0] > limits.kept_frames:
        detail = f"A request may have {limits.kept_frames} frames; this one has {size[0]}."
        raise ProblemError("too-many-frames", detail, limits.kept_frames, size[0])
    return t * h * w
