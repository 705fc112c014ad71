"""Clips in chunks, as the tiers exchange them: plain data and protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from media.types import Preprocess, SourceInfo
from model.geometry import Geometry, Size


@dataclass(frozen=True, eq=False)
class ClipState:
    """The state of a clip between two chunks; the tokenizer's bundle alone can read it, on any replica.

    Args:
        frames: pixel frames encoded, or latent frames decoded so far.
        arrays: what the network carries on; None where it carries nothing yet.
    """

    frames: int
    arrays: tuple[NDArray[Any] | None, ...]


@dataclass(frozen=True, eq=False)
class ChunkInput:
    """The next part of a clip.

    Args:
        array: uint8 RGB pixels (n, H, W, 3), or tokens int (t, h, w) or latents float (t, h, w, c).
        state: that of the part before; None starts a clip.
        final: encode the frames that fill no temporal patch too.
    """

    array: NDArray[Any]
    state: ClipState | None = None
    final: bool = False


@dataclass(frozen=True, eq=False)
class ChunkOutput:
    """The outcome of a chunk.

    Args:
        array: codes that became complete, int32 tokens (t, h, w) or float32 latents (t, h, w, c), where t may be 0; or
            uint8 RGB pixels (n, H, W, 3) with the padding still on.
        state: for the next chunk.
        queue_ms, compute_ms: time in the queue and on the device, milliseconds.
    """

    array: NDArray[Any]
    state: ClipState
    queue_ms: float = 0.0
    compute_ms: float = 0.0


def latent_frames(bound: int, positions: int, starts: bool = False) -> int:
    """Return the most latent frames of a chunk of a stream.

    Encoder and decoder share it, so that each part of an encoded stream is one chunk of the decoded one.

    Args:
        bound: latent positions of a chunk; a single latent frame may have more.
        positions: of one latent frame.
        starts: whether the chunk starts a clip. It has one more, of the clip's first frame alone, beyond the bound.
    """
    return max(1, bound // positions) + starts


def chunk_positions(geometry: Geometry, chunk: ChunkInput) -> int:
    """Return the latent positions of a chunk, at least 1."""
    if chunk.array.dtype != np.uint8:
        t, h, w = chunk.array.shape[:3]
        return t * h * w
    frames, height, width = chunk.array.shape[:3]
    started = int(chunk.state is not None and chunk.state.frames > 0)  # a clip's first frame is a latent frame alone
    t, h, w = geometry.grid((max(1, frames) + started, height, width))
    return max(1, t - started) * h * w


def chunk_size(geometry: Geometry, chunk: ChunkInput) -> Size:
    """Return frames, height and width of the pixels of a chunk, of which a decoded one has its padding still on."""
    if chunk.array.dtype == np.uint8:
        frames, height, width = chunk.array.shape[:3]
        return frames, height, width
    t, h, w = chunk.array.shape[:3]
    started = int(chunk.state is not None and chunk.state.frames > 0)
    frames, height, width = geometry.size((t + started, h, w))
    return frames - started, height, width


@dataclass(frozen=True)
class StreamDescription:
    """A clip that arrives, as far as it is known.

    Args:
        source: the file; its counts and times are those so far.
        preprocess: what is done to each frame.
        fps: rate of the kept frames, frames per second; None if nothing states it.
    """

    source: SourceInfo
    preprocess: Preprocess
    fps: float | None


class FrameStream(Protocol):
    """The frames of a clip that arrives. Every method may raise `ProblemError`."""

    @property
    def description(self) -> StreamDescription:
        """Return what is known of the clip: at the end, all of it."""
        ...

    async def open(self) -> Size:
        """Decode up to the first frame; return 1 and the height and width of all frames."""
        ...

    async def read(self, frames: int) -> NDArray[np.uint8]:
        """Return the next frames, uint8 RGB (n, H, W, 3); fewer than were asked for at the end alone."""
        ...
