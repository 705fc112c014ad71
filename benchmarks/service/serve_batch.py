"""Baseline: Ray Serve with `@serve.batch` over the engine; `python -m benchmarks.service.serve_batch`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import ray
import torch
import typer
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.service.baseline_engine import BATCH, Encoder, read_pixels, write_codes
from service.formats.media_types import MSGPACK

BATCH_WAIT_S = 0.002
ONGOING = 256
OBJECT_BYTES = 512 * 2**20


class Batched:
    """The one replica, which speaks HTTP and computes; its only hop is Ray's proxy.

    Args:
        bundle, dtype: of the engine.
    """

    def __init__(self, bundle: str, dtype: str) -> None:
        self._encoder = Encoder(Path(bundle), dtype)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _encode(self, clips: list[Any]) -> list[NDArray[Any]]:
        return await asyncio.to_thread(self._encoder.encode_mixed, clips)

    async def __call__(self, request: Request) -> Response:
        """Answer `POST /encode`."""
        clip = read_pixels(await request.body(), request.headers["content-type"])
        codes: Any = await self._encode(clip)
        return Response(write_codes(codes), media_type=MSGPACK)


def main(bundle: Path, dtype: str, port: int) -> None:
    """Serve until a signal."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_BYTES)
    serve.start(http_options={"port": port}, logging_config={"enable_access_log": False})
    deployment = serve.deployment(
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0.1, "num_gpus": int(torch.cuda.is_available())},
    )(Batched)
    serve.run(deployment.bind(str(bundle.resolve()), dtype), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    typer.run(main)
