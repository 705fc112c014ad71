"""A file is blamed for a crash only if it crashed fresh workers, by its own doing."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from handover import Handover
from media_samples import video, workers
from pools import CLIP, MIB, MP4, refusal, running, start

from media.types import Frames
from service.sandbox import lane
from service.sandbox.blocklist import Blocklist
from service.sandbox.memory_watch import MemoryWatch
from service.sandbox.process import OutOfMemoryError, WorkerProcess

BAD = video(CLIP[::-1])


async def test_a_worker_that_is_killed_once_loses_nothing(handover: Handover) -> None:
    async with running() as pool:
        handover.stops = 1
        task = start(pool)
        worker = await handover.of(1)
        os.kill(worker, signal.SIGKILL)
        assert (await task).pixels.shape == CLIP.shape
        assert pool.restarts == {"killed": 1}
        assert worker not in workers()


async def kill_thrice(handover: Handover) -> None:
    for number in (1, 2, 3):
        os.kill(await handover.of(number), signal.SIGKILL)


async def test_a_valid_file_is_not_blamed_for_workers_that_others_kill(handover: Handover) -> None:
    async with running() as pool:
        handover.stops = 3
        task = start(pool)
        await kill_thrice(handover)
        problem = await refusal(task)
        assert (problem.code, problem.status) == ("overloaded", 503)
        assert problem.retry_after_seconds is not None
        assert pool.restarts == {"killed": 3}
        assert (await start(pool)).pixels.shape == CLIP.shape


async def test_a_file_that_fills_the_memory_is_blamed_if_it_does_so_again_alone(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "_LARGE_SHARE", 0.01)  # of two gigabytes
    async with running() as pool:
        handover.stops = 3
        task = start(pool)
        await kill_thrice(handover)
        assert (await refusal(task)).code == "corrupt-media"


def test_a_watch_sees_the_memory_of_a_process_however_soon_it_ends() -> None:
    with MemoryWatch(os.getpid()) as watch:
        pass
    assert watch.peak_bytes > MIB


async def test_a_crash_in_a_worker_that_served_others_is_no_proof(handover: Handover) -> None:
    async with running() as pool:
        await start(pool)
        handover.stops = 2
        task = start(pool, BAD)
        for number in (2, 3):
            await handover.crash(number)
        assert (await task).pixels.shape == CLIP.shape
        assert pool.restarts == {"crash": 2}


async def test_a_file_is_tried_alone_where_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = WorkerProcess.decode

    def leaking(worker: WorkerProcess, *arguments: Any) -> Frames:
        if worker.tasks:
            raise OutOfMemoryError
        return decode(worker, *arguments)

    monkeypatch.setattr(WorkerProcess, "decode", leaking)
    async with running() as pool:
        for _ in range(2):
            assert (await start(pool)).pixels.shape == CLIP.shape
        assert pool.restarts == {"memory": 1}


async def test_a_file_that_crashes_two_workers_is_refused_at_once_from_then_on(handover: Handover) -> None:
    async with running() as pool:
        handover.stops = 2
        task = start(pool, BAD)
        for number in (1, 2):
            await handover.crash(number)
        problem = await refusal(task)
        assert problem.code == "corrupt-media"
        again = await refusal(start(pool, BAD))
        assert "before" in again.detail
        assert pool.restarts == {"crash": 2}
        assert (await start(pool, MP4)).pixels.shape == CLIP.shape


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
