"""The store of jobs as its users see it: `SqliteStore` keeps one machine's jobs, `RedisStore` those of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from service.jobs.records import Claim, Job, JobCounts, JobEvent, Kind, NewJob


class JobStore(Protocol):
    """Jobs, their events and their content. Each method happens as a whole or not at all.

    A worker's methods take the token of its claim and return whether that is in force. One that is lost or cancelled
    changes nothing.
    """

    def submit(self, new: NewJob) -> Job:
        """Queue a job; one that is there already, by id or by its owner's key, is returned as it is.

        Raises:
            ProblemError: `overloaded`, `rate-limited` or `idempotency-conflict`.
        """
        ...

    def get(self, owner: str, job_id: str) -> Job | None:
        """Return a job of an owner."""
        ...

    def jobs(
        self, owner: str, limit: int, after: str | None = None, ascending: bool = False, kind: Kind | None = None
    ) -> list[Job]:
        """Return jobs of an owner in the order of submission, those after the job `after`."""
        ...

    def events(self, owner: str, job_id: str, after: int) -> list[JobEvent] | None:
        """Return the events of a job with higher numbers, or None if the owner has no job of this id."""
        ...

    def cancel(self, owner: str, job_id: str) -> Job | None:
        """End a job that is not finished, and return it."""
        ...

    def delete(self, owner: str, job_id: str) -> bool:
        """Forget a job and its content; return whether it was there."""
        ...

    def read(self, owner: str, job_id: str, offset: int, length: int) -> bytes | None:
        """Return a piece of the content of a completed job, or None if there is none."""
        ...

    def claim(self, worker: str) -> Claim | None:
        """Return the next job to work on, if one waits; the same worker gets the same one while it holds it."""
        ...

    def renew(self, job_id: str, token: int, done: int) -> bool:
        """Report progress, and keep the job."""
        ...

    def release(self, job_id: str, token: int, seconds: float) -> bool:
        """Give a job back, to be claimed after some time."""
        ...

    def write(self, job_id: str, token: int, offset: int, data: bytes) -> bool:
        """Add a piece of the content."""
        ...

    def complete(self, job_id: str, token: int, media_type: str, size: int) -> bool:
        """Publish the content whose pieces were written."""
        ...

    def fail(self, job_id: str, token: int, error: Mapping[str, Any]) -> bool:
        """End a job without content."""
        ...

    def sweep(self) -> JobCounts:
        """Remove what is over its age, take back the jobs of lost workers, and return the state."""
        ...

    def close(self) -> None:
        """Let another process open the same store."""
        ...
