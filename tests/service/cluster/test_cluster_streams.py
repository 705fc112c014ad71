"""Streams through the proxy and the replicas: the tokens of the whole, whatever happens to a replica on the way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import torch
from cluster_service import Service, eventually

from media.write import encode_video
from service.client import AsyncClient, Client

FRAMES, SIDE = 400, 48


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(picture, (step, 2 * step), (0, 1)) for step in range(FRAMES)])


@pytest.fixture(scope="module")
def film(pixels: np.ndarray) -> bytes:
    return encode_video(pixels, "video/mp4", 25)


@pytest.fixture(scope="module")
def tokens(service: Service, film: bytes) -> np.ndarray:
    """The whole film's, of the network itself."""
    import io

    from media.reader import open_frames

    frames = np.stack(list(open_frames(io.BytesIO(film), None)))
    with torch.inference_mode():
        return service.tokenizer.encode(torch.from_numpy(frames)[None])[0].numpy()


def pieces(film: bytes, size: int = 4096) -> Iterator[bytes]:
    return (film[start : start + size] for start in range(0, len(film), size))


def test_a_film_streams_there_and_back(service: Service, film: bytes, tokens: np.ndarray) -> None:
    with Client(service.url) as client:
        stream = client.encode_stream(pieces(film))
        parts = list(stream)
        assert len(parts) > 20
        np.testing.assert_array_equal(np.concatenate(parts), tokens)
        assert stream.end is not None
        back = client.decode_stream(iter(parts), bundle=service.card.hash, frames=FRAMES)
        assert sum(map(len, back)) == FRAMES


async def test_tokens_come_before_the_film_has(service: Service, film: bytes) -> None:
    came = threading.Event()

    async def waiting() -> AsyncIterator[bytes]:
        import asyncio

        half = len(film) // 2
        yield film[:half]
        while not came.is_set():
            await asyncio.sleep(0.01)
        yield film[half:]

    async with AsyncClient(service.url) as client:
        stream = client.encode_stream(waiting())
        async for _ in stream:
            came.set()
    assert stream.end is not None
    assert stream.end.frames == FRAMES


def test_a_replica_that_is_killed_takes_no_state_along(service: Service, film: bytes, tokens: np.ndarray) -> None:
    victim = min(service.processes("Tokenizer"))
    parts = []
    with Client(service.url) as client:
        for part in client.encode_stream(pieces(film)):
            if not parts:
                os.kill(victim, signal.SIGKILL)
            parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts), tokens)
    eventually(lambda: len(service.processes("Tokenizer") - {victim}) == 2)
