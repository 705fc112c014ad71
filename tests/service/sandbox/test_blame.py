"""A file is blamed for a crash only if it crashed fresh workers, by its own doing."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from media_samples import workers
from pools import CLIP, MIB, SLOW, SMALL, busy, refusal, running, start, until

from service.sandbox import lane
from service.sandbox.blocklist import Blocklist
from service.sandbox.memory_watch import MemoryWatch
from service.sandbox.pool import MediaPool


async def test_a_worker_that_is_killed_once_loses_nothing() -> None:
    async with running() as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        task = start(pool)
        await asyncio.sleep(0.02)
        os.kill(worker, signal.SIGKILL)
        assert (await task).pixels.shape == CLIP.shape
        assert pool.restarts == {"killed": 1}
        assert worker not in workers()


async def kill_thrice(pool: MediaPool) -> None:
    for kill in (1, 2, 3):
        await until(lambda: any(map(busy, workers())))
        os.kill(workers()[0], signal.SIGKILL)
        await until(lambda kill=kill: pool.restarts["killed"] == kill)  # type: ignore[misc]


async def test_a_valid_file_is_not_blamed_for_workers_that_others_kill() -> None:
    async with running() as pool:
        task = start(pool, SLOW, SMALL)
        await kill_thrice(pool)
        problem = await refusal(task)
        assert (problem.code, problem.status) == ("overloaded", 503)
        assert problem.retry_after_seconds is not None
        assert (await start(pool, SLOW, SMALL)).pixels.shape == (128, 64, 64, 3)


async def test_a_file_that_fills_the_memory_is_blamed_if_it_does_so_again_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "_LARGE_SHARE", 0.01)  # of two gigabytes
    async with running() as pool:
        task = start(pool, SLOW, SMALL)
        await kill_thrice(pool)
        assert (await refusal(task)).code == "corrupt-media"


def test_a_watch_sees_the_memory_of_a_process_however_soon_it_ends() -> None:
    with MemoryWatch(os.getpid()) as watch:
        pass
    assert watch.peak_bytes > MIB


async def test_a_crash_in_a_worker_that_served_others_is_no_proof() -> None:
    async with running() as pool:
        await start(pool)
        task = start(pool, SLOW, SMALL)
        for crash in (1, 2):
            await until(lambda: any(map(busy, workers())))
            os.kill(workers()[0], signal.SIGSEGV)
            await until(lambda crash=crash: pool.restarts["crash"] == crash)  # type: ignore[misc]
        assert (await task).pixels.shape == (128, 64, 64, 3)


async def test_a_file_that_crashes_two_workers_is_refused_at_once_from_then_on() -> None:
    async with running() as pool:
        task = start(pool, SLOW, SMALL)
        for crash in (1, 2):
            await until(lambda: any(map(busy, workers())))
            os.kill(workers()[0], signal.SIGSEGV)
            await until(lambda crash=crash: pool.restarts["crash"] == crash)  # type: ignore[misc]
        problem = await refusal(task)
        assert problem.code == "corrupt-media"
        again = await refusal(start(pool, SLOW))
        assert "before" in again.detail
        assert pool.restarts == {"crash": 2}
        assert (await start(pool)).pixels.shape == CLIP.shape


def test_the_blocklist_forgets() -> None:
    now = 0.0
    blocked = Blocklist(clock=lambda: now, size=2, seconds=10)
    blocked.add(b"one")
    assert blocked.holds(b"one")
    assert not blocked.holds(b"two")
    assert not blocked.holds(b"longer")
    blocked.add(b"two")
    blocked.add(b"six")
    assert [blocked.holds(data) for data in (b"one", b"two", b"six")] == [False, True, True]
    now = 10.0
    assert not blocked.holds(b"six")
