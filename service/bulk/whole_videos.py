"""Clips of any length: frames are read from a process of their own while the ones before are encoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from media.types import MediaOptions
from model.geometry import Size
from service.bulk.batches import SharedEngine
from service.bulk.decoder import TOO_LARGE, Failed
from service.bulk.decoder_pool import DecoderProcess, LostError, Memory, VideoReader
from service.bulk.sources import Item
from service.chunks import ChunkInput, ChunkOutput, StreamDescription
from service.errors import ProblemError
from service.formats.records import Part
from service.operations.encode_stream import encode_stream
from service.operations.options import EncodeOptions
from service.scheduling.executor import OutOfMemory
from service.settings import Limits
from service.types import Backend, Media, ModelCard, TokenizerKey, size_of

CHUNK_POSITIONS = 2**13  # computed at a time
FRAME_TOKENS = 2**20  # the service's own limit is for requests


class VideoCodes(NamedTuple):
    """An encoded clip.

    Args:
        codes: tokens uint16 or int32 (t, h, w), or float16 latents (t, h, w, c).
        digest: SHA-256 of its file.
        preprocess: steps from the file's frames to the encoded ones.
    """

    codes: NDArray[Any]
    digest: str
    preprocess: dict[str, Any]


def encode_whole_video(
    engine: SharedEngine, process: DecoderProcess, memory: Memory, item: Item
) -> VideoCodes | Failed:
    """Encode a clip as `POST /encode` encodes a stream.

    Args:
        engine: of a bundle that is causal in time.
        process: reads this clip alone meanwhile.
        memory: shared with the process.
        item: the clip.
    """
    try:
        video = VideoReader(process, memory, item)
        codes = asyncio.run(_encode(engine, video))
    except LostError as lost:
        return lost.failed
    except OutOfMemory:
        return Failed(TOO_LARGE, retry=True)
    except ProblemError as problem:
        return Failed(problem.detail)
    assert video.part is not None
    whole = np.concatenate(codes)
    return VideoCodes(
        whole.astype(np.float16) if whole.dtype.kind == "f" else whole, video.digest, asdict(video.part.preprocess)
    )


async def _encode(engine: SharedEngine, video: VideoReader) -> list[NDArray[Any]]:
    records = encode_stream(
        cast(Backend, ChunkBackend(engine)),
        cast(Media, VideoMedia(video)),
        _no_pieces(),
        None,
        EncodeOptions(),
        Limits(tokens=FRAME_TOKENS, kept_pixels=2**28, clip_pixels=2**30),
        CHUNK_POSITIONS,
    )
    return [record.array async for record in records if isinstance(record, Part)]


async def _no_pieces() -> AsyncIterator[bytes]:
    """Yield nothing: the process reads the file itself."""
    return
    yield b""


class ChunkBackend:
    """The part of `Backend` that streams use."""

    def __init__(self, engine: SharedEngine) -> None:
        self._engine = engine

    async def models(self) -> list[ModelCard]:
        return [self._engine.card]

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        key = TokenizerKey(model, "encode_chunk", "pixels", size_of(chunk.array))
        output: ChunkOutput = await asyncio.to_thread(self._engine.run_chunk, key, chunk)
        return output


class VideoMedia:
    """The part of `Media` that streams use."""

    def __init__(self, video: VideoReader) -> None:
        self._video = video

    @asynccontextmanager
    async def stream(
        self, pieces: AsyncIterator[bytes], declared: str | None, options: MediaOptions
    ) -> AsyncIterator[_Frames]:
        yield _Frames(self._video)


class _Frames:
    """A `FrameStream` over a clip that a process reads."""

    def __init__(self, video: VideoReader) -> None:
        self._video = video
        self._first: NDArray[np.uint8] | None = None

    @property
    def description(self) -> StreamDescription:
        part = self._video.part
        assert part is not None
        return StreamDescription(part.source, part.preprocess, part.source.kept_fps)

    async def open(self) -> Size:
        self._first = await asyncio.to_thread(self._video.read, 1)
        if not len(self._first):
            raise ProblemError("corrupt-media", "None of the frames of the file can be decoded.")
        return size_of(self._first)

    async def read(self, frames: int) -> NDArray[np.uint8]:
        if self._first is None:
            return await asyncio.to_thread(self._video.read, frames)
        first, self._first = self._first, None
        others = await asyncio.to_thread(self._video.read, frames - 1) if frames > 1 else first[:0]
        return np.concatenate([first, others]) if len(others) else first
