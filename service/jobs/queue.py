"""The store of jobs for callers on an event loop, wherever it is kept."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.errors import ProblemError
from service.jobs.records import Claim, Job, JobCounts, JobEvent, Kind, NewJob
from service.jobs.store import JobStore

RETRY_SECONDS = 5.0

log = logging.getLogger("ray.serve")


class JobQueue(ABC):
    """The methods of `JobStore`, awaited. Each may raise `ProblemError`, and each may be repeated.

    Attributes:
        on_submit: called when this process has queued a job.
    """

    on_submit: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store."""

    async def submit(self, new: NewJob) -> Job:
        """Queue a job."""
        job: Job = await self.call("submit", new)
        self.on_submit()
        return job

    async def get(self, owner: str, job_id: str) -> Job:
        """Return a job of an owner.

        Raises:
            ProblemError: `unknown-job`.
        """
        return _known(await self.call("get", owner, job_id))

    async def jobs(
        self, owner: str, limit: int, after: str | None = None, ascending: bool = False, kind: Kind | None = None
    ) -> list[Job]:
        """Return jobs of an owner, the newest first unless `ascending`, those after the job `after`.

        Raises:
            ProblemError: `unknown-job`, there is no job `after`: a page that began anew would never end.
        """
        if after is not None:
            await self.get(owner, after)
        found: list[Job] = await self.call("jobs", owner, limit, after, ascending, kind)
        return found

    async def events(self, owner: str, job_id: str, after: int) -> list[JobEvent]:
        """Return the events of a job with higher numbers; errors as `get`."""
        return _known(await self.call("events", owner, job_id, after))

    async def cancel(self, owner: str, job_id: str) -> Job:
        """End a job that is not finished, and return it; errors as `get`."""
        return _known(await self.call("cancel", owner, job_id))

    async def delete(self, owner: str, job_id: str) -> None:
        """Forget a job and its content."""
        await self.call("delete", owner, job_id)

    async def read(self, owner: str, job_id: str, offset: int, length: int) -> bytes:
        """Return a piece of the content of a completed job; errors as `get`."""
        return _known(await self.call("read", owner, job_id, offset, length))

    async def claim(self, worker: str) -> Claim | None:
        """Return the next job to work on, if one waits."""
        claim: Claim | None = await self.call("claim", worker)
        return claim

    async def renew(self, claim: Claim, done: int) -> bool:
        """Report progress, and keep a job; False if it is lost or cancelled."""
        return bool(await self.call("renew", claim.job.id, claim.token, done))

    async def release(self, claim: Claim, seconds: float) -> bool:
        """Give a job back, to be claimed after some time."""
        return bool(await self.call("release", claim.job.id, claim.token, seconds))

    async def write(self, claim: Claim, offset: int, data: bytes) -> bool:
        """Add a piece of the content; False as for `renew`."""
        return bool(await self.call("write", claim.job.id, claim.token, offset, data))

    async def complete(self, claim: Claim, media_type: str, size: int) -> bool:
        """Publish the content; False as for `renew`."""
        return bool(await self.call("complete", claim.job.id, claim.token, media_type, size))

    async def fail(self, claim: Claim, error: Mapping[str, Any]) -> bool:
        """End a job without content; False as for `renew`."""
        return bool(await self.call("fail", claim.job.id, claim.token, error))

    async def sweep(self) -> JobCounts:
        """Remove what is old, take back the jobs of lost workers, and return the state."""
        counts: JobCounts = await self.call("sweep")
        return counts


class LocalJobQueue(JobQueue):
    """A store in this process, on a thread of its own.

    Args:
        store: the store, which `close` closes.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "jobs")

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the store.

        Raises:
            ProblemError: the store's own, or `not-ready` where the disk fails.
        """
        try:
            work = getattr(self._store, method)
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except (OSError, sqlite3.Error) as error:
            log.error("the store of jobs failed: %s", error)
            detail = "The store of jobs cannot be read or written now. The log of the service has the cause."
            raise ProblemError("not-ready", detail, retry_after_seconds=RETRY_SECONDS) from error

    def close(self) -> None:
        """Close the store once its last call has ended."""
        self._thread.submit(self._store.close)
        self._thread.shutdown()


class NoJobQueue(JobQueue):
    """The queue of a service without jobs."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Refuse."""
        raise ProblemError("not-found", "This service keeps no jobs.")


def _known(found: Any) -> Any:
    if found is None:
        raise ProblemError("unknown-job", "No job of yours has this id. GET /jobs lists those that are there.")
    return found
