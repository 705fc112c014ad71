"""The events of jobs, asked for once for all who read them."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.jobs.queue import JobQueue
from service.jobs.records import JobEvent
from service.shared_task import SharedTask

POLL_SECONDS = 0.5
PRUNE_JOBS = 256  # of which those that nobody has asked for lately are forgotten


class JobPolls:
    """The last answers of the one owner of the jobs, which all readers of a job share for half a second.

    Args:
        jobs: the queue of jobs.
        clock: seconds.
    """

    def __init__(self, jobs: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs, self._clock = jobs, clock
        self._polls: dict[tuple[str, str], tuple[float, SharedTask[list[JobEvent]]]] = {}

    def __len__(self) -> int:
        """Return the number of jobs whose last answer is kept."""
        return len(self._polls)

    async def events(self, owner: str, job_id: str, after: int) -> list[JobEvent]:
        """Return the events of a job with higher numbers, at most as old as a poll.

        Raises:
            ProblemError: as `JobQueue.events`.
        """
        now = self._clock()
        since, poll = self._polls.get((owner, job_id), (-POLL_SECONDS, None))
        if poll is None or poll.failed or (not poll.running and now - since >= POLL_SECONDS):
            if len(self._polls) >= PRUNE_JOBS:
                self._polls = {key: entry for key, entry in self._polls.items() if now - entry[0] < POLL_SECONDS}
            poll = SharedTask(self._jobs.events(owner, job_id, 0))  # a job has a few, each name once
            self._polls[owner, job_id] = now, poll
        return [event for event in await poll.result() if event.number > after]
