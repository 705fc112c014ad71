"""Baseline: FastAPI over the engine, one thread, no batches; `python -m benchmarks.service.plain_fastapi`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import typer
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.service.baseline_engine import Encoder, read_pixels, write_codes
from service.formats.media_types import MSGPACK


def build(encoder: Encoder) -> FastAPI:
    """Return the application."""
    app = FastAPI()
    thread = ThreadPoolExecutor(1)  # the engine computes one batch at a time

    def answer(body: bytes, content_type: str) -> bytes:
        return write_codes(encoder.encode([read_pixels(body, content_type)])[0])

    @app.post("/encode")
    async def encode(request: Request) -> Response:
        body, content_type = await request.body(), request.headers["content-type"]
        data = await asyncio.get_running_loop().run_in_executor(thread, answer, body, content_type)
        return Response(data, media_type=MSGPACK)

    return app


def main(bundle: Path, dtype: str, port: int) -> None:
    """Serve until a signal."""
    uvicorn.run(build(Encoder(bundle, dtype)), port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    typer.run(main)
