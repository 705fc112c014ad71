"""Law 3 over HTTP: a video that is encoded, or decoded, while it arrives gives the tokens and pixels of the whole."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media.write import encode_video
from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.tokenizer import OmniTokenizer
from service.api.app import create_app
from service.engine.tokenizer import Engine
from service.formats.codes import read_codes, write_codes
from service.formats.media_types import MSGPACK, MSGPACK_SEQUENCE, NPY
from service.formats.records import Begin, End, Part, RecordReader
from service.formats.result import EncodeMeta, EncodeResult
from service.in_process import LocalBackend
from service.sandbox.pool import MediaPool
from service.settings import Settings

KINDS = ("vq", "vae")
CHUNKS = (1, 40, 10_000)  # latent positions at a time: one frame, a few, and the whole
TOLERANCE = 2e-5  # as offline: sums over differently shaped buffers


class Unobserved:
    def queue(self, *_: Any) -> None: ...

    def batch(self, *_: Any) -> None: ...

    def split(self, *_: Any) -> None: ...

    def done(self, *_: Any) -> None: ...


@dataclass
class Service:
    """The service in this process, with chunks of each size."""

    runner: asyncio.Runner
    apps: dict[int, Any]

    def post(self, chunk: int, path: str, body: list[bytes], **headers: str) -> bytes:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.apps[chunk])
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.post(path, content=in_pieces(body), headers=named)

        answer = self.runner.run(call())
        assert answer.status_code == 200, answer.text
        return answer.content


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("bundles")
    for seed, (name, config) in enumerate(
        {"vq": CONFIGS["debug"], "vae": replace(CONFIGS["debug"], head=VAEConfig(4))}.items()
    ):
        torch.manual_seed(seed)
        save_bundle(folder / name, OmniTokenizer(config).eval(), f"# {name}")
    engine = Engine([folder / name for name in KINDS], "cpu", "float32", 1)
    pool = MediaPool(Settings().limits, 1)
    with asyncio.Runner() as runner:
        runner.run(pool.start())
        apps, backends = {}, []
        for chunk in CHUNKS:
            chosen = Settings(stream_chunk_tokens=chunk)
            backends.append(LocalBackend(engine.cards, engine.launch, chosen, Unobserved()))
            apps[chunk] = create_app(backends[-1], pool, chosen)
        yield Service(runner, apps)
        for backend in backends:
            backend.close()
        runner.run(pool.stop())


def film(frames: int, height: int, width: int, seed: int) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    return encode_video(
        np.stack([np.roll(picture, (step, 2 * step), (0, 1)) for step in range(frames)]), "video/mp4", 25
    )


async def in_pieces(body: list[bytes]) -> AsyncIterator[bytes]:
    for piece in body:
        yield piece


def split(data: bytes, pieces: int) -> list[bytes]:
    size = -(-len(data) // pieces)
    return [data[start : start + size] for start in range(0, len(data), size)]


def read(answer: bytes) -> tuple[Begin, np.ndarray, End]:
    reader = RecordReader()
    begin, *parts, end = reader.feed(answer)
    reader.close()
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    return begin, np.concatenate([part.array for part in parts if isinstance(part, Part)]), end


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(KINDS),
    st.sampled_from(CHUNKS),
    st.integers(1, 30),
    st.integers(2, 40),
    st.integers(2, 40),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_law_3_streams_over_http_are_the_whole(
    service: Service, kind: str, chunk: int, frames: int, height: int, width: int, pieces: int, seed: int
) -> None:
    data = film(frames, height, width, seed)
    query, source = f"?model={kind}", {"Content_Type": "video/mp4"}
    whole = read_codes(service.post(chunk, f"/encode{query}", [data], **source, Accept=MSGPACK), MSGPACK)
    streamed = service.post(chunk, f"/encode{query}", split(data, pieces), **source, Accept=MSGPACK_SEQUENCE)
    begin, codes, end = read(streamed)
    if kind == "vq":
        np.testing.assert_array_equal(codes, whole.tokens)
    else:
        np.testing.assert_allclose(codes, whole.latents, rtol=0, atol=TOLERANCE)
    unlike = {"id", "timing"}
    assert end.meta is not None
    assert end.meta.model_dump(exclude=unlike | {"source"}) == whole.meta.model_dump(exclude=unlike | {"source"})
    assert end.meta.source is not None
    assert end.meta.source.frames_in == end.frames == frames
    assert (begin.bundle, begin.height, begin.width) == (whole.meta.bundle, *whole.meta.size.as_tuple()[1:])

    sequence = {"Content_Type": MSGPACK_SEQUENCE}
    _, pixels, pixel_end = read(service.post(chunk, "/decode", split(streamed, pieces), **sequence))
    meta = EncodeMeta(bundle=end.meta.bundle, size=end.meta.size)
    result = EncodeResult(meta, codes, None) if kind == "vq" else EncodeResult(meta, None, codes)
    answer = service.post(chunk, "/decode", [write_codes(result, MSGPACK)], Content_Type=MSGPACK, Accept=NPY)
    expected = np.load(io.BytesIO(answer))
    assert pixels.shape == expected.shape
    assert pixel_end.frames == frames
    # Sums of another order may round to the neighbouring level.
    np.testing.assert_allclose(pixels.astype(int), expected, atol=1)
