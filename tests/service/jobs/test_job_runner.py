"""Workers of jobs: a lost one publishes nothing, a store that goes away is waited for, a stop gives work back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from stores import Clock, Place
from waiting import SECONDS, until

from service.errors import ProblemError
from service.jobs.queue import JobQueue, LocalJobQueue
from service.jobs.records import Claim, NewJob, Quotas
from service.jobs.runner import PIECE_BYTES, Runner, Work

LEASE_SECONDS = 1.0
QUOTAS = Quotas(100, 2**30, 1000, 100, LEASE_SECONDS, 3)
OnDone = Callable[[int], None]


class Detached(JobQueue):
    """A queue that can lose its store, and answers of it.

    Attributes:
        away: whether no call comes through.
        lost: methods whose next answer is lost on its way back.
        refused: methods that were answered with False.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.away = False
        self.lost: list[str] = []
        self.refused: list[str] = []

    async def call(self, method: str, *arguments: Any) -> Any:
        if self.away:
            raise ProblemError("not-ready", "The store is away.")
        answer = await self._queue.call(method, *arguments)
        if answer is False:
            self.refused.append(method)
        if method in self.lost:
            self.lost.remove(method)
            raise ProblemError("not-ready", "The answer was lost.")
        return answer


@pytest.fixture
async def queue(place: Place, clock: Clock) -> AsyncIterator[LocalJobQueue]:
    queue = LocalJobQueue(place.open(QUOTAS, clock))
    yield queue
    queue.close()


@asynccontextmanager
async def running(queue: JobQueue, work: Work, slots: int = 1) -> AsyncIterator[Runner]:
    runner = Runner(queue, work, slots, LEASE_SECONDS, poll_seconds=0.02)
    runner.start()
    yield runner
    await runner.stop()


def new(name: str) -> NewJob:
    return NewJob(name, "", "job", {}, name.encode(), 8)


async def wait(queue: JobQueue, name: str, status: str = "completed") -> None:
    async with asyncio.timeout(SECONDS):
        while (await queue.get("", name)).status != status:
            await asyncio.sleep(0.01)


async def upper(claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
    on_done(8)
    return "text/plain", claim.request.upper()


class Forever:
    """Work that ends with its cancellation alone."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        raise AssertionError


async def test_every_job_is_done_once(queue: LocalJobQueue) -> None:
    done: list[str] = []

    async def work(claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
        done.append(claim.job.id)
        return await upper(claim, on_done)

    names = [f"job-{number}" for number in range(12)]
    async with running(queue, work, slots=3), running(queue, work):
        for name in names:
            await queue.submit(new(name))
        for name in names:
            await wait(queue, name)
            assert await queue.read("", name, 0, 99) == name.upper().encode()
    assert sorted(done) == sorted(names)


async def test_a_worker_that_was_cut_off_publishes_nothing(queue: LocalJobQueue, clock: Clock) -> None:
    """It does not hear that its job is another one's by now, and reports late."""
    cut_off = Detached(queue)
    cut_off.lost = ["renew"] * 1000  # or it would hear
    release = asyncio.Event()

    async def slow(claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
        cut_off.away = True
        await release.wait()
        return "text/plain", b"late"

    await queue.submit(new("a"))
    async with running(cut_off, slow):
        await wait(queue, "a", "in_progress")
        await until(lambda: cut_off.away)
        clock.now += LEASE_SECONDS + 1
        async with running(queue, upper):
            await wait(queue, "a")
        release.set()
        cut_off.away = False
        await until(lambda: "write" in cut_off.refused)
    assert await queue.read("", "a", 0, 99) == b"A"
    assert (await queue.get("", "a")).losses == 1


async def test_a_lease_is_kept_while_work_goes_on(queue: LocalJobQueue, clock: Clock) -> None:
    runs = 0

    async def long(claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
        nonlocal runs
        runs += 1
        for step in range(1, 5):
            on_done(step)
            while (await queue.get("", "a")).done < step:
                await asyncio.sleep(0.01)
            clock.now += LEASE_SECONDS * 0.9
        return "text/plain", b"x"

    await queue.submit(new("a"))
    async with running(queue, long), running(queue, long):
        await wait(queue, "a")
    assert runs == 1
    names = [event.name for event in await queue.events("", "a", 0)]
    assert names == ["queued", "started", "progress", "completed"]


async def test_lost_answers_and_a_store_that_goes_away_change_nothing(queue: LocalJobQueue) -> None:
    content = bytes(range(256)) * (PIECE_BYTES // 128)
    detached = Detached(queue)

    async def work(claim: Claim, on_done: OnDone) -> tuple[str, bytes]:
        detached.lost += ["write", "complete"]
        detached.away = True
        asyncio.get_running_loop().call_later(LEASE_SECONDS / 2, setattr, detached, "away", False)
        return "application/octet-stream", content

    await queue.submit(new("a"))
    async with running(detached, work):
        await wait(queue, "a")
    pieces = [await queue.read("", "a", offset, PIECE_BYTES) for offset in range(0, len(content), PIECE_BYTES)]
    assert b"".join(pieces) == content
    assert (await queue.get("", "a")).losses == 0


async def test_a_stop_gives_work_back_at_once(queue: LocalJobQueue) -> None:
    forever = Forever()
    await queue.submit(new("a"))
    async with running(queue, forever):
        await wait(queue, "a", "in_progress")
    assert forever.ended.is_set()
    job = await queue.get("", "a")
    assert (job.status, job.losses) == ("queued", 0)
    async with running(queue, upper):
        await wait(queue, "a")


async def test_a_cancelled_job_ends_its_work(queue: LocalJobQueue) -> None:
    forever = Forever()
    await queue.submit(new("a"))
    async with running(queue, forever):
        await wait(queue, "a", "in_progress")
        await queue.cancel("", "a")
        async with asyncio.timeout(SECONDS):
            await forever.ended.wait()
    assert (await queue.get("", "a")).status == "cancelled"


async def test_a_content_that_lacks_pieces_is_a_refusal(queue: LocalJobQueue) -> None:
    await queue.submit(new("a"))
    claim = await queue.claim("w")
    assert claim is not None
    await queue.write(claim, 0, b"ab")
    with pytest.raises(ProblemError, match="not-ready"):
        await queue.complete(claim, "text/plain", 3)
    assert (await queue.get("", "a")).status == "in_progress"
