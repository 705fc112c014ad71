"""The refusals of a store of jobs, and the failures that it gives jobs itself."""

from __future__ import annotations

from service.errors import ProblemError

RETRY_SECONDS = 30.0
LOST = {"code": "internal", "detail": "Every worker that took the job was lost. The service's log may say why."}
TOO_LATE = {"code": "deadline-exceeded", "detail": "No worker had time for the job. Send it again."}


def key_conflict() -> ProblemError:
    """Return the refusal of another submission under a known key."""
    return ProblemError("idempotency-conflict", "Another request came with this key. Use a new one.")


def too_many_jobs(own: int, most: int) -> ProblemError:
    """Return the refusal of a caller with so many unfinished jobs."""
    detail = f"{own} of your jobs are not finished. Wait for one of them, or cancel one."
    return ProblemError("rate-limited", detail, most, own, retry_after_seconds=RETRY_SECONDS)


def store_full(jobs: int, size: int) -> ProblemError:
    """Return the refusal of a job where only unfinished ones could make way for it."""
    return ProblemError(
        "overloaded", f"{jobs} jobs of {size} bytes wait already. Try again later.", retry_after_seconds=RETRY_SECONDS
    )
