"""Readers of a job share the polls of its owner, and each gets what it has not seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.api.job_polls import POLL_SECONDS, PRUNE_JOBS, JobPolls
from service.errors import ProblemError
from service.jobs.records import JobEvent


class Jobs:
    """A queue of jobs whose events are those of the test."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.found = [JobEvent(1, "queued", {}), JobEvent(2, "started", {})]
        self.failure: ProblemError | None = None

    async def events(self, owner: str, job_id: str, after: int) -> list[JobEvent]:
        self.calls.append((owner, job_id))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return [event for event in self.found if event.number > after]


@pytest.fixture
def rig() -> tuple[Jobs, JobPolls, list[float]]:
    jobs, now = Jobs(), [0.0]
    queue: Any = jobs
    return jobs, JobPolls(queue, lambda: now[0]), now


async def test_readers_share_a_poll(rig: tuple[Jobs, JobPolls, list[float]]) -> None:
    jobs, polls, now = rig
    answers = await asyncio.gather(*(polls.events("a", "job", after) for after in (0, 1, 2)))
    assert [[event.number for event in found] for found in answers] == [[1, 2], [2], []]
    assert len(jobs.calls) == 1
    await polls.events("b", "job", 0)
    assert jobs.calls == [("a", "job"), ("b", "job")], "another caller's job may have the same name"
    now[0] = POLL_SECONDS
    jobs.found = [JobEvent(3, "completed", {})]
    assert [event.number for event in await polls.events("a", "job", 2)] == [3]


async def test_a_failure_is_not_shared_with_later_readers(rig: tuple[Jobs, JobPolls, list[float]]) -> None:
    jobs, polls, _ = rig
    jobs.failure = ProblemError("not-ready", "The owner is being replaced.")
    with pytest.raises(ProblemError):
        await polls.events("a", "job", 0)
    jobs.failure = None
    assert len(await polls.events("a", "job", 0)) == 2


async def test_a_reader_that_leaves_ends_no_other(rig: tuple[Jobs, JobPolls, list[float]]) -> None:
    jobs, polls, _ = rig
    first = asyncio.ensure_future(polls.events("a", "job", 0))
    second = asyncio.ensure_future(polls.events("a", "job", 0))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 2
    assert len(jobs.calls) == 1


async def test_jobs_without_end_are_forgotten(rig: tuple[Jobs, JobPolls, list[float]]) -> None:
    _, polls, now = rig
    for number in range(3 * PRUNE_JOBS):
        now[0] += POLL_SECONDS / 2
        await polls.events("a", str(number), 0)
    assert len(polls) <= PRUNE_JOBS
