"""Who waits for media workers, for how long, and who is sent away."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal

import numpy as np
import pytest
from handover import Handover
from media_samples import video, workers
from pools import CLIP, GIF, MP4, WHOLE, refusal, running, slow_worker, start
from waiting import until

from media.types import MediaOptions
from service.drain_rate import DrainRate
from service.errors import ProblemError
from service.sandbox import pool as pool_module


async def test_a_full_queue_refuses_and_then_drains() -> None:
    async with running() as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        accepted = [start(pool) for _ in range(17)]  # one runs, sixteen wait
        await asyncio.sleep(0)
        problem = await refusal(start(pool))
        assert (problem.code, problem.status) == ("overloaded", 503)
        assert problem.retry_after_seconds is not None
        os.kill(worker, signal.SIGCONT)
        for answer in await asyncio.gather(*accepted):
            assert answer.pixels.shape == CLIP.shape
        assert pool.results["decode", "mp4", "overloaded"] == 1


@pytest.mark.parametrize(
    ("seconds", "elsewhere", "most"),
    [(0.12, 0.0, 12), (0.001, 0.0, 8), (2.0, 0.0, 16), (2.0, 1.885, 12), (2.0, 3.0, 8)],
)
async def test_small_files_wait_no_longer_than_the_queue_may(seconds: float, elsewhere: float, most: int) -> None:
    async with running(max_queue_seconds=seconds) as pool:  # of whose worker 100 small files a second are expected
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        taken = []
        for number in range(most + 1):  # one runs
            pool.check_load(f"caller {number}", elsewhere)
            taken.append(asyncio.create_task(pool.decode(MP4, None, WHOLE, f"caller {number}")))
            await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="files wait"):
            pool.check_load("another", elsewhere)
        os.kill(worker, signal.SIGCONT)
        await asyncio.gather(*taken)


async def test_frames_say_how_long_they_took_with_the_wait_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(pool_module.time, "time", lambda: -now)  # of the day, which may be set back
    async with running(clock=lambda: now) as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        first, second = start(pool), start(pool)
        await asyncio.sleep(0)
        now += 500.0
        os.kill(worker, signal.SIGCONT)
        assert 0 < (await first).seconds < 500
        assert 500 < (await second).seconds < 1000


async def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_QUEUE_BYTES_PER_WORKER", 2 * len(MP4))
    async with running() as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        accepted = [start(pool) for _ in range(3)]  # one runs, two wait
        await asyncio.sleep(0)
        assert (await refusal(start(pool))).code == "overloaded"
        os.kill(worker, signal.SIGCONT)
        await asyncio.gather(*accepted)
    monkeypatch.setattr(pool_module, "_QUEUE_BYTES_PER_WORKER", 1)
    async with running() as pool:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        accepted = [start(pool) for _ in range(2)]  # the first that waits may be of any size
        await asyncio.sleep(0)
        os.kill(worker, signal.SIGCONT)
        await asyncio.gather(*accepted)


async def test_dear_files_never_hold_all_workers() -> None:
    dear = MediaOptions(animated=True, size=(8, 8))
    async with running(count=2) as pool:
        slow = slow_worker()
        os.kill(slow, signal.SIGSTOP)
        waiting = [start(pool, GIF, dear) for _ in range(6)]
        for _ in range(8):
            assert (await start(pool)).pixels.shape == CLIP.shape
        assert not any(task.done() for task in waiting)
        os.kill(slow, signal.SIGCONT)
        for answer in await asyncio.gather(*waiting):
            assert answer.pixels.shape == (9, 8, 8, 3)


async def test_a_clip_that_is_dearer_than_it_looks_waits_for_the_slow_worker(handover: Handover) -> None:
    large = video(np.zeros((12, 1024, 1600, 3), np.uint8))
    async with running(count=2) as pool:
        slow = slow_worker()
        os.kill(slow, signal.SIGSTOP)
        task = start(pool, large, MediaOptions(size=(8, 8)))
        assert await handover.of(1) != slow
        assert await handover.of(2) == slow, "the other one refused it"
        assert (await start(pool)).pixels.shape == CLIP.shape
        assert not task.done()
        os.kill(slow, signal.SIGCONT)
        assert (await task).pixels.shape == (12, 8, 8, 3)
        assert pool.results == {("decode", "mp4", "ok"): 2}


async def test_callers_share_the_workers() -> None:
    async with running(clock=itertools.count().__next__) as pool:  # one task takes as long as the other
        os.kill(workers()[0], signal.SIGSTOP)
        done: list[str] = []

        async def decode(caller: str) -> None:
            await pool.decode(MP4, None, WHOLE, caller)
            done.append(caller)

        tasks = [asyncio.create_task(decode(caller)) for caller in ["greedy"] * 12 + ["other"] * 2]
        await asyncio.sleep(0)
        os.kill(workers()[0], signal.SIGCONT)
        await asyncio.gather(*tasks)
        assert done[:8].count("other") == 2


async def test_who_holds_the_queue_makes_way_and_hears_when_to_come_back() -> None:
    async with running() as pool:
        os.kill(workers()[0], signal.SIGSTOP)
        greedy = [asyncio.create_task(pool.decode(GIF, None, WHOLE, "greedy")) for _ in range(17)]
        await asyncio.sleep(0)
        other = asyncio.create_task(pool.decode(MP4, None, WHOLE, "other"))
        await until(lambda: greedy[-1].done())
        problem = await refusal(greedy[-1])
        assert problem.code == "overloaded"
        assert problem.retry_after_seconds is not None
        assert 0.1 <= problem.retry_after_seconds < 1, "the like is refused for a fifth of it, so it is not rounded up"
        os.kill(workers()[0], signal.SIGCONT)
        assert (await other).pixels.shape == CLIP.shape
        await asyncio.gather(*greedy[:-1])


def test_the_speed_of_workers_is_that_of_their_last_tasks() -> None:
    rate = DrainRate(20.0, math.inf, 100e6)
    assert rate.per_second == 100e6
    for pixels_per_second in (50e6, 400e6):
        for _ in range(100):
            rate.add(pixels_per_second, 1.0)
        assert rate.seconds(pixels_per_second) == pytest.approx(1, rel=0.05)
        assert rate.per_second == pytest.approx(pixels_per_second, rel=0.05)
