"""A real server for the HTTP tests: uvicorn on loopback, the real media pool, and a tokenizer tier over numpy."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.types import ASGIApp
from toy_generators import ToyGenerators

from service.api.app import create_app
from service.api.log import configure
from service.api.middleware import SpanExporter
from service.api.ray_middleware import before_ray
from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.errors import PROBLEMS, ProblemError
from service.finished_request import FinishedRequest
from service.flow import Flow
from service.flow import current as current_flow
from service.in_process import job_runner, job_store
from service.jobs.queue import LocalJobQueue
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.types import Backend, Decoded, Encoded, GeneratorBackend, ModelCard, Size, Timing, Want, encode_each

TIMING = Timing(queue_ms=1.0, compute_ms=2.0, batch_size=1)


def _card(name: str, kind: Any, codes: int | None, channels: int, digit: str) -> ModelCard:
    return ModelCard(name, digit * 64, kind, codes, channels, 8, 4, "causal", True, 1, "cpu", "float32")


VQ, VAE = _card("blocks-vq", "vq", 512, 3, "a"), _card("blocks-vae", "vae", None, 3, "b")


class BlockBackend:
    """A tokenizer without a network: a latent is the mean colour of its block, a token that colour in 9 bits.

    `stall`, where it is set, is awaited before each answer. `waiting` counts the calls there, `cancelled` those that
    were given up there. `seconds` is the time that the last call of `encode` had left, and `flow` whose share it takes.
    """

    def __init__(self) -> None:
        self.cards = [VQ, VAE]
        self.stall: Callable[[], Awaitable[None]] | None = None
        self.calls = self.waiting = self.cancelled = self.codebooks = 0
        self.seconds: float | None = None
        self.flow: Flow | None = None

    async def models(self) -> list[ModelCard]:
        return self.cards

    async def codebook(self, model: str) -> NDArray[np.float32]:
        self.codebooks += 1
        codes = np.arange(512)
        levels = np.stack([codes // 64, codes // 8 % 8, codes % 8], axis=-1)
        return ((levels + 0.5) / 8 - 0.5).astype(np.float32)

    async def encode(
        self, model: str, pixels: NDArray[np.uint8], want: Want, *, seconds: float | None = None
    ) -> Encoded:
        self.seconds, self.flow = seconds, current_flow.get()
        await self._wait()
        latents = self._latents(pixels)
        return Encoded(
            self._tokens(latents) if want != "latents" else None, latents if want != "tokens" else None, TIMING
        )

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, *, seconds: float | None = None
    ) -> Sequence[Encoded | ProblemError]:
        return await encode_each(self, model, clips, want, seconds)

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float | None = None) -> Decoded:
        await self._wait()
        assert codes.dtype == (np.int32 if codes.ndim == 3 else np.float32)
        return Decoded(self._pixels(codes, size), TIMING)

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8], *, seconds: float | None = None) -> Decoded:
        await self._wait()
        latents = self._latents(pixels)
        codes = self._tokens(latents) if model == VQ.id else latents
        frames, height, width = pixels.shape[:3]
        return Decoded(self._pixels(codes, (frames, height, width)), TIMING)

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        self.seconds = seconds
        await self._wait()
        pixels, state = chunk.array, chunk.state
        if state is not None:  # the frame before a chunk does not matter to its blocks
            pixels = np.concatenate([pixels[:1], pixels])
        latents = self._latents(pixels)[0 if state is None else 1 :]
        frames = len(chunk.array) + (0 if state is None else state.frames)
        return ChunkOutput(self._tokens(latents) if model == VQ.id else latents, ClipState(frames, ()))

    async def decode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        await self._wait()
        codes, state = chunk.array, chunk.state
        t, h, w = codes.shape[:3]
        whole = codes if state is None else np.concatenate([codes[:1], codes])
        pixels = self._pixels(whole, (4 * t + 1, 8 * h, 8 * w))[0 if state is None else 1 :]
        return ChunkOutput(pixels, ClipState(t + (0 if state is None else state.frames), ()))

    async def _wait(self) -> None:
        self.calls += 1
        self.waiting += 1
        try:
            if self.stall is not None:
                await self.stall()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    def _latents(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        frames, height, width = pixels.shape[:3]
        t, h, w = VQ.geometry.grid((frames, height, width))
        pads = ((0, 4 * (t - 1) + 1 - frames), (0, 8 * h - height), (0, 8 * w - width), (0, 0))
        padded = np.pad(pixels, pads, mode="edge").astype(np.float32)
        blocks = padded[::4].reshape(t, h, 8, w, 8, 3)
        return (blocks.mean(axis=(2, 4)) / 255 - 0.5).astype(np.float32)

    def _tokens(self, latents: NDArray[np.float32]) -> NDArray[np.int32]:
        levels = np.clip(((latents + 0.5) * 8).astype(np.int32), 0, 7)
        return levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]

    def _pixels(self, codes: NDArray[Any], size: Size) -> NDArray[np.uint8]:
        if codes.ndim == 3:
            levels = np.stack([codes // 64, codes // 8 % 8, codes % 8], axis=-1)
            colours = (levels + 0.5) / 8
        else:
            colours = codes + 0.5
        blocks = np.clip(colours * 255, 0, 255).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        pixels = np.concatenate([blocks[:1], blocks[1:].repeat(4, axis=0)])
        return pixels if size is None else pixels[: size[0], : size[1], : size[2]]


class Counts:
    """Keeps what the middleware reports."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.codes: list[str] = []
        self.flying: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0

    def observe(self, request: FinishedRequest) -> None:
        assert request.seconds >= 0
        code = str(request.status)
        self.requests[request.route, request.method, code] += 1
        self.codes.append(code)
        self.bytes_in += request.bytes_in
        self.bytes_out += request.bytes_out

    def in_flight(self, route: str, change: int) -> None:
        self.flying[route] += change


class Server:
    """A running server under test; other tiers than the usual ones may be given."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend | None = None,
        generators: GeneratorBackend | None = None,
        exporter: SpanExporter | None = None,
        ray_layers: bool = False,
    ) -> None:
        self.backend, self.counts = BlockBackend(), Counts()
        self.generators = ToyGenerators(VQ, VAE)
        self.media = MediaPool(settings.limits, workers=2)
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory()
        self.jobs = LocalJobQueue(job_store(settings, settings.jobs_folder or Path(self._folder.name)))
        tiers = backend or self.backend, generators or self.generators
        self.app = app = create_app(
            tiers[0], self.media, settings, self.counts, tiers[1], jobs=self.jobs, exporter=exporter
        )
        configure(Path(os.devnull))  # pytest's own lines stay legible
        served: ASGIApp = app
        for layer in reversed(before_ray() if ray_layers else []):
            served = layer.cls(served, *layer.args, **layer.kwargs)
        config = uvicorn.Config(served, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.media.start()
        runner = job_runner(self.jobs, self.backend, self.generators, self.media, self._settings)
        runner.start()
        try:
            await self._uvicorn.serve()
        finally:
            await runner.stop()
            if self.media.alive:
                await self.media.stop()

    @property
    def port(self) -> int:
        return self._uvicorn.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self._uvicorn.should_exit = True
        self._thread.join()
        self.jobs.close()
        self._folder.cleanup()


def problem(response: httpx.Response, slug: str) -> dict[str, object]:
    """Check that an answer is this problem, and return its document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert (response.status_code, response.json()["code"]) == (PROBLEMS[slug][0], slug)
    return response.json()
