"""Streams without HTTP or torch: what a chunk holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from media.types import Preprocess, SourceInfo
from service.chunks import ChunkInput, ChunkOutput, ClipState, StreamDescription, chunk_positions
from service.errors import ProblemError
from service.formats.records import Begin, End, Part, Record
from service.operations.decode_stream import decode_stream
from service.operations.encode_stream import encode_stream
from service.operations.options import DecodeOptions, EncodeOptions
from service.settings import Limits
from service.types import ModelCard

VQ = ModelCard("vq", "a" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")
BOUNDS, ROWS, COLUMNS = st.integers(1, 60), st.integers(1, 4), st.integers(1, 4)


class Backend:
    """Answers with zeros, and notes the latent positions of each chunk."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.decoded: list[int] = []

    async def models(self) -> list[ModelCard]:
        return [VQ]

    async def encode_chunk(self, model: str, chunk: ChunkInput) -> ChunkOutput:
        self.encoded.append(chunk_positions(VQ.geometry, chunk))
        frames, height, width = chunk.array.shape[:3]
        before = 0 if chunk.state is None else chunk.state.frames
        whole, ready = (VQ.geometry.grid((n, height, width))[0] if n else 0 for n in (before + frames, before))
        tokens = np.zeros((whole - ready, height // 8, width // 8), np.int32)
        return ChunkOutput(tokens, ClipState(before + frames, ()))

    async def decode_chunk(self, model: str, chunk: ChunkInput) -> ChunkOutput:
        self.decoded.append(chunk_positions(VQ.geometry, chunk))
        frames, rows, columns = chunk.array.shape
        before = 0 if chunk.state is None else chunk.state.frames
        pixels = np.zeros((4 * frames - 3 * (not before), 8 * rows, 8 * columns, 3), np.uint8)
        return ChunkOutput(pixels, ClipState(before + frames, ()))


class Film:
    """The media workers, with one clip of grey frames."""

    description = StreamDescription(
        SourceInfo("video/mp4", "h264", 8, 8, 1, 25.0, 0.2, [0.0]), Preprocess((8, 8)), fps=25.0
    )

    def __init__(self, frames: int, rows: int, columns: int) -> None:
        self._left = np.zeros((frames, 8 * rows, 8 * columns, 3), np.uint8)

    @asynccontextmanager
    async def stream(self, *_: Any) -> AsyncIterator[Film]:
        yield self

    async def open(self) -> tuple[int, int, int]:
        return (1, *self._left.shape[1:3])

    async def read(self, frames: int) -> NDArray[np.uint8]:
        taken, self._left = self._left[:frames], self._left[frames:]
        return taken


async def given_records(records: Sequence[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record


async def decode(backend: Any, records: Sequence[Record], bound: int) -> int:
    """Return the frames that come."""
    decoded = decode_stream(backend, given_records(records), DecodeOptions(), Limits(), bound)
    return sum([len(record.array) async for record in decoded if isinstance(record, Part)])


def assert_bounded(chunks: Sequence[int], bound: int, positions: int) -> None:
    """A chunk keeps the bound; the first one may have one latent frame more."""
    most = max(bound, positions)
    assert chunks[0] <= most + positions
    assert max(chunks[1:], default=0) <= most


@given(st.integers(1, 60), BOUNDS, ROWS, COLUMNS)
def test_each_part_of_an_encoded_stream_is_one_chunk_of_the_decoded(
    frames: int, bound: int, rows: int, columns: int
) -> None:
    async def main() -> None:
        backend, film = Backend(), Film(frames, rows, columns)
        arguments: Any = (backend, film, None, "video/mp4", EncodeOptions(), Limits(), bound)
        records = [record async for record in encode_stream(*arguments)]
        parts = [record.array.size for record in records if isinstance(record, Part)]
        assert await decode(backend, records, bound) == frames
        assert backend.encoded == backend.decoded == parts
        assert_bounded(parts, bound, rows * columns)

    asyncio.run(main())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), BOUNDS, ROWS, COLUMNS)
def test_parts_of_anyone_are_decoded_within_the_bound(lengths: list[int], bound: int, rows: int, columns: int) -> None:
    parts = [Part("tokens", np.zeros((length, rows, columns), np.uint16)) for length in lengths]
    backend = Backend()
    frames = asyncio.run(decode(backend, [Begin(bundle=VQ.hash), *parts, End()], bound))
    assert frames == 4 * sum(lengths) - 3
    assert_bounded(backend.decoded, bound, rows * columns)


async def test_a_large_part_is_checked_as_it_is_computed() -> None:
    backend, tokens = Backend(), np.zeros((10_000, 1, 1), np.uint16)
    tokens[-1] = 512
    with pytest.raises(ProblemError, match="must be in"):
        await decode(backend, [Begin(bundle=VQ.hash), Part("tokens", tokens), End()], 100)
    assert backend.decoded == [101, *[100] * 98]
