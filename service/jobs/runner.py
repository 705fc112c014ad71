"""The workers of one process: they claim jobs, keep their leases while the work goes on, and publish its content."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from media.errors import MediaError
from service.errors import PROBLEMS, ProblemError
from service.jobs.queue import JobQueue
from service.jobs.records import Claim

Work = Callable[[Claim, Callable[[int], None]], Awaitable[tuple[str, bytes]]]
T = TypeVar("T")

# Refusals that say nothing of the job: it waits, and is tried again.
PASSING_PROBLEMS = frozenset({"overloaded", "not-ready", "draining", "deadline-exceeded"})
PIECE_BYTES = 2**22
POLL_SECONDS = 0.5
RENEWALS_PER_LEASE = 10
AGAIN_SECONDS = 2.0
PATIENCE_LEASES = 4  # for a store that restarts
RELEASE_SECONDS = 2.0
WORKER_BYTES = 8

log = logging.getLogger("ray.serve")


class LostClaimError(Exception):
    """The job is another worker's by now, or was cancelled."""


class Runner:
    """The workers on so many jobs at a time.

    Args:
        queue: the jobs.
        work: does the work of one.
        slots: jobs at a time.
        lease_seconds: silence after which the store gives a job to another worker.
        poll_seconds: between questions for the next job.
    """

    def __init__(
        self, queue: JobQueue, work: Work, slots: int, lease_seconds: float, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._queue, self._work, self._slots = queue, work, slots
        self._lease_seconds, self._poll_seconds = lease_seconds, poll_seconds
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work; a job that this process queues is looked for at once."""
        self._queue.on_submit = self._wake.set
        self._tasks = [asyncio.create_task(self._slot()) for _ in range(self._slots)]

    async def stop(self) -> None:
        """Give back what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _slot(self) -> None:
        worker = secrets.token_hex(WORKER_BYTES)
        while True:
            self._wake.clear()
            try:
                claim = await self._queue.claim(worker)  # by the same name until it comes back: its answer may be lost
                worker = secrets.token_hex(WORKER_BYTES)
                if claim is not None:
                    await self._handle(claim)
                    continue
            except ProblemError as error:
                log.warning("no job can be claimed: %s", error)
            except Exception:  # the lease ends, and the job is tried again
                log.exception("a worker of jobs failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()

    async def _handle(self, claim: Claim) -> None:
        """Do a job and report on it, whatever happens."""
        done = 0

        def on_done(steps: int) -> None:
            nonlocal done
            done = steps

        task = asyncio.create_task(self._publish(claim, on_done))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._lease_seconds / RENEWALS_PER_LEASE)
                if not task.done() and not await self._keep(claim, done):
                    return
            await self._report(claim, task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with suppress(ProblemError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._queue.release(claim, 0)
            raise
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _publish(self, claim: Claim, on_done: Callable[[int], None]) -> None:
        media_type, content = await self._work(claim, on_done)
        for offset in range(0, max(1, len(content)), PIECE_BYTES):
            piece = content[offset : offset + PIECE_BYTES]
            await self._insist(lambda offset=offset, piece=piece: self._queue.write(claim, offset, piece))  # type: ignore[misc]
        await self._insist(lambda: self._queue.complete(claim, media_type, len(content)))

    async def _keep(self, claim: Claim, done: int) -> bool:
        """Return whether the job is still this worker's; one that cannot be asked for goes on."""
        try:
            return await self._queue.renew(claim, done)
        except ProblemError:
            return True

    async def _report(self, claim: Claim, task: asyncio.Task[None]) -> None:
        """Say how a task ended that did not publish."""
        error = task.exception()
        if error is None or isinstance(error, LostClaimError):
            log.info(
                "the job %s is %s", claim.job.id, "completed" if error is None else "another worker's, or cancelled"
            )
            return
        if isinstance(error, MediaError):
            error = ProblemError.of(error)
        if not isinstance(error, ProblemError):
            log.error("the job %s failed", claim.job.id, exc_info=error)
            error = ProblemError("internal", f"The service failed. Its log has the cause under {claim.job.id}.")
        if error.code in PASSING_PROBLEMS:
            seconds = AGAIN_SECONDS if error.retry_after_seconds is None else error.retry_after_seconds
            await self._last_word(self._queue.release(claim, seconds))
        else:
            await self._last_word(self._insist(lambda: self._queue.fail(claim, problem_fields(error))))

    async def _insist(self, call: Callable[[], Awaitable[bool]]) -> None:
        """Repeat a call until the store answers.

        Raises:
            LostClaimError: the answer is False.
            ProblemError: the store does not come back.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + PATIENCE_LEASES * self._lease_seconds
        while True:
            try:
                held = await call()
                break
            except ProblemError as error:
                if error.code not in PASSING_PROBLEMS or clock() > until:
                    raise
                await asyncio.sleep(self._poll_seconds)
        if not held:
            raise LostClaimError

    async def _last_word(self, call: Awaitable[Any]) -> None:
        """Report, or leave it to the end of the lease."""
        try:
            await call
        except (ProblemError, LostClaimError) as error:
            log.warning("the end of a job was not reported: %s", error)


def problem_fields(error: ProblemError) -> dict[str, Any]:
    """Return what a record keeps of a refusal."""
    status, title = PROBLEMS[error.code]
    fields: dict[str, Any] = {"code": error.code, "title": title, "status": status, "detail": error.detail}
    optional = {"limit": error.limit, "actual": error.actual, "errors": error.errors or None}
    return fields | {name: value for name, value in optional.items() if value is not None}
