"""Small pictures that the event loop gives to workers: no thread takes part unless something goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from handover import Handover
from media_samples import pattern, picture, workers
from pools import CLIP, PATIENT, refusal, running, start
from waiting import until

from media.errors import MediaError
from media.identify import IMAGE_TYPES, identify
from media.types import Frames, MediaOptions
from service.errors import ProblemError
from service.sandbox import lane, pool
from service.sandbox.process import WorkerProcess
from service.settings import Limits

CASES = sorted((Path(__file__).parents[2] / "media" / "cases").iterdir())
BIG = pattern(1, 256, 256)[0]
SMALL = picture(CLIP[0], "PNG")
OPTIONS = (MediaOptions(), MediaOptions(size=(64, 48)), MediaOptions(size=(96, 96), fit="contain"))


def is_picture(data: bytes) -> bool:
    try:
        return identify(data, None) in IMAGE_TYPES
    except MediaError:
        return False


def outcome(answer: Frames | ProblemError | BaseException) -> object:
    if isinstance(answer, Frames):
        return answer.pixels.tobytes(), answer.source, answer.preprocess, answer.is_video
    return answer


async def test_pictures_are_those_that_a_thread_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [data for data in (case.read_bytes() for case in CASES) if is_picture(data)]
    files += [picture(BIG, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    files += [files[-5][: len(files[-5]) // 2], picture(BIG[..., 0], "JPEG"), picture(BIG, "JPEG", progressive=True)]
    tasks = [(data, options) for data in files for options in OPTIONS]
    monkeypatch.setattr(pool, "_QUEUE_PER_WORKER", len(tasks))
    answers = []
    for largest in (2**20, -1):
        monkeypatch.setattr(pool, "_LOOP_PIXELS", largest)
        async with running() as media:
            waiting = [start(media, *task) for task in tasks]
            answers.append([outcome(answer) for answer in await asyncio.gather(*waiting, return_exceptions=True)])
            assert not media.restarts
    assert answers[0] == answers[1]


async def test_a_small_picture_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as media:
        with monkeypatch.context() as patched:
            patched.setattr(WorkerProcess, "decode", None)
            for size in (None, (512, 512)):  # the answer comes in several parts
                frames = await start(media, picture(BIG, "PNG"), MediaOptions(size=size))
                assert frames.pixels.shape == (1, *(size or (256, 256)), 3)
            problem = await refusal(start(media, SMALL[:60]))
            assert problem.code == "corrupt-media"
        large = picture(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8), "PNG")
        monkeypatch.setattr(WorkerProcess, "fits", lambda worker, data: len(data) < len(large))
        for data in (SMALL, large, SMALL):
            assert (await start(media, data)).source.media_type == "image/png"
        assert not media.restarts


async def test_a_picture_survives_the_loss_of_its_worker(handover: Handover) -> None:
    async with running() as media:
        handover.stops = 1
        task = start(media, SMALL)
        worker = await handover.of(1)
        os.kill(worker, signal.SIGKILL)
        assert np.array_equal((await task).pixels, CLIP[:1])
        assert media.restarts == {"killed": 1}
        assert worker not in workers()


async def test_a_picture_that_crashes_two_fresh_workers_is_refused_from_then_on(handover: Handover) -> None:
    async with running() as media:
        handover.stops = 2
        task = start(media, SMALL)
        for number in (1, 2):
            await handover.crash(number)
        assert (await refusal(task)).code == "corrupt-media"
        assert "before" in (await refusal(start(media, SMALL))).detail
        assert media.restarts == {"crash": 2}
        assert (await start(media)).pixels.shape == CLIP.shape


async def test_a_worker_that_served_others_is_no_proof_against_a_picture(handover: Handover) -> None:
    async with running() as media:
        await start(media, SMALL)
        handover.stops = 2
        task = start(media, SMALL)
        for number in (2, 3):
            await handover.crash(number)
        assert np.array_equal((await task).pixels, CLIP[:1])


async def test_a_worker_that_hangs_over_a_picture_is_ended_by_the_clock() -> None:
    async with running(Limits(decode_seconds=0.3)) as media:
        (worker,) = workers()
        os.kill(worker, signal.SIGSTOP)
        problem = await refusal(start(media, SMALL))
        assert (problem.code, problem.limit) == ("decode-budget", 0.3)
        assert media.restarts == {"timeout": 1}
        await until(lambda: len(workers()) == 1 and workers() != [worker])


async def test_cancelling_and_stopping_end_a_picture(handover: Handover) -> None:
    async with running() as media:
        handover.stops = 1
        task = start(media, SMALL)
        worker = await handover.of(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await start(media, SMALL)).pixels.shape == (1, *CLIP.shape[1:])
        assert media.restarts == {"cancelled": 1}
        assert worker not in workers()
        handover.stops = 1
        task = start(media, SMALL)
        await handover.of(3)
        await media.stop()
        assert (await refusal(task)).code == "draining"


async def test_a_worker_that_dies_between_pictures_costs_none() -> None:
    async with running() as media:
        await start(media, SMALL)
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        await until(lambda: workers() == [])
        for data in (SMALL, SMALL):
            assert (await start(media, data)).pixels.shape == (1, *CLIP.shape[1:])
        assert media.restarts == {"killed": 1}


async def test_workers_of_pictures_are_replaced_after_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_TASKS_PER_WORKER", 3)
    async with running(PATIENT) as media:
        for _ in range(7):
            await start(media, SMALL)
        await until(lambda: media.restarts == {"recycled": 2})
