"""Pools of media workers for tests, and the files that they read."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from media_samples import animation, pattern, video, workers
from waiting import SECONDS

from media.types import Frames, MediaOptions
from service.errors import ProblemError
from service.sandbox.pool import MediaPool
from service.settings import Limits

MIB = 2**20
CLIP = pattern(9, 32, 48)
MP4 = video(CLIP)
WHOLE = MediaOptions()
GIF = animation(np.arange(9, dtype=np.uint8)[:, None, None, None] * np.full((9, 1400, 1400, 3), 25, np.uint8), "GIF")
PATIENT = Limits(decode_seconds=SECONDS)  # a busy machine is slow, not wrong


@asynccontextmanager
async def running(
    limits: Limits = PATIENT,
    count: int = 1,
    allow_weak: bool = False,
    clock: Callable[[], float] = time.monotonic,
    max_queue_seconds: float = math.inf,
) -> AsyncIterator[MediaPool]:
    pool = MediaPool(limits, count, allow_weak, clock, max_queue_seconds)
    await pool.start()
    assert len(workers()) == count
    try:
        yield pool
    finally:
        await pool.stop()
        assert workers() == []


async def refusal(awaitable: asyncio.Future[Frames] | asyncio.Task[Frames]) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        await awaitable
    return caught.value


def start(pool: MediaPool, data: bytes = MP4, options: MediaOptions = WHOLE) -> asyncio.Task[Frames]:
    return asyncio.create_task(pool.decode(data, None, options))


def slow_worker() -> int:
    """Return the worker whose priority is lowest, which takes dear files."""
    return max(workers(), key=lambda worker: os.getpriority(os.PRIO_PROCESS, worker))
