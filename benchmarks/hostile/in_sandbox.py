"""The corpus through the media pool of this process: real workers, in the real sandbox."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.hostile.corpus import Case, MediaCorpus
from benchmarks.hostile.outcomes import Outcome, Rows
from media.types import MediaOptions
from media.write import encode_image
from service.errors import ProblemError
from service.operations.options import EncodeOptions
from service.sandbox.pool import MediaPool
from service.settings import Limits

AT_ONCE = 4
KNOWN = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(1, 48, 64, 3).astype(np.uint8)
SLACK_SECONDS = 5.0  # a second try on a fresh worker, and its start


async def run(corpus: MediaCorpus, indices: Iterable[int], rows: Rows, workers: int = 2) -> Counter[str]:
    """Decode the cases that have no row, and return the workers that were replaced, by reason.

    Raises:
        AssertionError: the pool is not what it was: a known picture has other pixels, or descriptors are left open.
    """
    limits = Limits()
    pool = MediaPool(limits, workers)
    await pool.start()
    try:
        await _check(pool)
        before = _descriptors()
        waiting = iter(rows.missing(indices))

        async def work() -> None:
            for index in waiting:
                rows.add(await _decode(pool, corpus.case(index), limits))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        await _check(pool)
        assert _descriptors() <= before + workers, f"{_descriptors()} descriptors are open; {before} were before."
        return Counter(pool.restarts)
    finally:
        await pool.stop()


async def _decode(pool: MediaPool, case: Case, limits: Limits) -> Outcome:
    started, fault = time.monotonic(), ""
    try:
        options: MediaOptions = EncodeOptions.model_validate(case.query).media()
        frames = await pool.decode(case.data, case.content_type, options)
        answer = "ok"
        if frames.pixels.dtype != np.uint8 or frames.pixels.ndim != 4 or not frames.pixels.size:
            fault = f"pixels of shape {frames.pixels.shape}"
    except ProblemError as problem:
        answer = problem.code
        if problem.status >= 500 and problem.code != "overloaded":
            fault = problem.detail
    except Exception as error:
        answer, fault = type(error).__name__, str(error)
    seconds = time.monotonic() - started
    if seconds > 2 * limits.decode_seconds * AT_ONCE + SLACK_SECONDS:
        fault = fault or "too slow"
    return Outcome(case.index, case.kind, case.source, answer, round(seconds, 3), fault)


async def _check(pool: MediaPool) -> None:
    frames = await pool.decode(encode_image(KNOWN, "image/png"), "image/png", MediaOptions())
    assert np.array_equal(frames.pixels, KNOWN), "A known picture has other pixels."


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
