"""A service that streams a long video holds no more of it than of a short one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from media.write import VideoWriter
from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

SHORT, LONG = 150, 700
SIDE = 128
EXTRA_MIB = (LONG - SHORT) * SIDE * SIDE * 3 / 2**20
# glibc gives freed arrays back at once; without it the peak depends on how the heap happens to be cut up.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

# Both tiers in one process, whose bodies are read and whose answers are dropped piece by piece.
SERVICE = """
import asyncio, re, sys
from service.api.app import create_app
from service.engine.tokenizer import Engine
from service.formats.records import RecordReader
from service.in_process import LocalBackend
from service.sandbox.pool import MediaPool
from service.settings import Settings

class Unobserved:
    def queue(self, *_): ...
    def batch(self, *_): ...
    def done(self, *_): ...

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

async def post(app, path, pieces, sink, **headers):
    pieces, gone = iter(pieces), asyncio.Event()
    async def receive():
        piece = next(pieces, None)
        if piece is None and gone.is_set():
            await asyncio.Event().wait()
        if piece is None:
            gone.set()
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}
    async def send(message):
        assert message.get("status", 200) == 200, message
        sink(message.get("body", b""))
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": named, "state": {}}
    await app(scope | {"client": ("test", 1), "http_version": "1.1"}, receive, send)

def pieces_of(path):
    with open(path, "rb") as file:
        while piece := file.read(2**16):
            yield piece

async def main():
    settings = Settings(stream_chunk_tokens=4096)
    engine = Engine([sys.argv[1]], "cpu", "float32", 1)
    backend, pool = LocalBackend(engine.cards, engine.launch, settings, Unobserved()), MediaPool(settings.limits, 1)
    await pool.start()
    app = create_app(backend, pool, settings)
    for film in sys.argv[2:]:
        codes, pixels, sequence = RecordReader(), RecordReader(), "application/msgpack-seq"
        with open(film + ".seq", "wb") as file:
            def keep(data):
                file.write(data)
                list(codes.feed(data))
            await post(app, "/encode", pieces_of(film), keep, accept=sequence, content_type="video/mp4")
        encoded = peak()
        drop = lambda data: list(pixels.feed(data))
        await post(app, "/decode", pieces_of(film + ".seq"), drop, content_type=sequence)
        codes.close(), pixels.close()
        print(encoded, peak())
    backend.close()
    await pool.stop()

asyncio.run(main())
"""


def test_a_long_stream_takes_no_more_memory(tmp_path: Path, table: Callable[[str, str], None]) -> None:
    torch.manual_seed(0)
    save_bundle(tmp_path / "debug", OmniTokenizer(CONFIGS["debug"]).eval(), "Random weights for tests.")
    blocks = np.random.default_rng(0).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)
    films = []
    for frames in (SHORT, LONG):
        films.append(tmp_path / f"{frames}.mp4")
        with films[-1].open("wb") as file, closing(VideoWriter(file, "video/mp4", 25.0, SIDE, SIDE)) as writer:
            for step in range(frames):
                writer.write(np.roll(picture, (step, 2 * step), (0, 1)))
    command = [sys.executable, "-c", SERVICE, tmp_path / "debug", *films]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=os.environ | ALLOCATOR)
    assert done.returncode == 0, done.stderr
    peaks = [[int(word) / 1024 for word in line.split()] for line in done.stdout.splitlines()]
    for frames, (encoded, decoded) in zip((SHORT, LONG), peaks, strict=True):
        row = f"{frames} frames: {encoded:.0f} MiB after encode, {decoded:.0f} MiB after decode"
        table("peak memory of a service that streams", row)
    assert peaks[1][1] - peaks[0][1] < EXTRA_MIB / 2
