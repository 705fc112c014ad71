"""Pools of media workers for tests, and the files that they read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from media_samples import animation, pattern, video, workers

from media.types import Frames, MediaOptions
from service.errors import ProblemError
from service.sandbox.pool import MediaPool
from service.settings import Limits

MIB = 2**20
CLIP = pattern(9, 32, 48)
MP4 = video(CLIP)
WHOLE = MediaOptions()
SLOW = video(np.random.default_rng(0).integers(0, 255, (128, 320, 480, 3), dtype=np.uint8))
SMALL = MediaOptions(size=(64, 64))
GIF = animation(np.arange(9, dtype=np.uint8)[:, None, None, None] * np.full((9, 1400, 1400, 3), 25, np.uint8), "GIF")


@asynccontextmanager
async def running(limits: Limits | None = None, count: int = 1, allow_weak: bool = False) -> AsyncIterator[MediaPool]:
    pool = MediaPool(limits or Limits(), count, allow_weak)
    await pool.start()
    assert len(workers()) == count
    try:
        yield pool
    finally:
        await pool.stop()
        assert workers() == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen; the test's own timeout ends a wait for what never does."""
    while not condition():
        await asyncio.sleep(0.005)


async def refusal(awaitable: asyncio.Future[Frames] | asyncio.Task[Frames]) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await awaitable
    return caught.value


def start(pool: MediaPool, data: bytes = MP4, options: MediaOptions = WHOLE) -> asyncio.Task[Frames]:
    return asyncio.create_task(pool.decode(data, None, options))


def alive(home: Path) -> bool:
    """Return whether a process runs, rather than being gone or waiting to be reaped."""
    try:
        return (home / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def busy(worker: int) -> bool:
    """Return whether a worker has begun a task: only then does its bound on processor time exist."""
    try:
        lines = Path(f"/proc/{worker}/limits").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("Max cpu time") and line.split()[3] != "unlimited" for line in lines)
