"""One process of a link under test: `link_process.py tokenizer FOLDER` or `link_process.py ingress FOLDER`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.in_process import LocalBackend, Unobserved
from service.link.client import LinkClient
from service.link.server import LinkServer
from service.link.slots import CLASS_BYTES
from service.settings import Settings
from service.types import ModelCard, TokenizerKey

CARD = ModelCard("vq", "a" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")
ARENA_BYTES = 64 * CLASS_BYTES[0]
REREAD_SECONDS = 0.002  # time for a slot to be reused under the reader, if anything reuses it


def run(key: TokenizerKey, payloads: Sequence[NDArray[Any]]) -> list[Any]:
    """Return the colour of each payload as its tokens; say so where it has several, or changes while it is read."""
    first = [payload.copy() for payload in payloads]
    time.sleep(REREAD_SECONDS)
    if not all((a == a.flat[0]).all() and (a == b).all() for a, b in zip(first, payloads, strict=True)):
        print("a slot was read after its reuse", flush=True)
    grid = CARD.geometry.grid(key.size)
    return [(np.full(grid, int(payload.flat[0]), np.int32), None) for payload in first]


async def tokenizer(folder: Path) -> None:
    """Serve until killed."""
    settings = Settings(bundles=(), max_batch_requests=4, max_queue_seconds=1000)  # a busy machine refuses nothing
    backend = LocalBackend([CARD], lambda *batch: partial(run, *batch), settings, Unobserved())
    server = LinkServer(folder, backend, [CARD])
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ingress(folder: Path) -> None:
    """Send more than the tokenizers can do, until killed."""
    client = LinkClient(folder, ARENA_BYTES, tries=3)
    while not client.cards:
        await asyncio.sleep(0.01)

    async def ask() -> None:
        while True:
            await client.encode("vq", np.zeros((1, 64, 64, 3), np.uint8), "tokens", seconds=60)

    print("ready", flush=True)
    await asyncio.gather(*(ask() for _ in range(12)))


if __name__ == "__main__":
    asyncio.run({"tokenizer": tokenizer, "ingress": ingress}[sys.argv[1]](Path(sys.argv[2])))
