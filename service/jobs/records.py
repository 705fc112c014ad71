"""The records of jobs: plain data that the store, the workers and the HTTP tier exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("queued", "in_progress", "completed", "failed", "cancelled")
Kind = Literal["job", "video"]
EventName = Literal["queued", "started", "progress", "completed", "failed", "cancelled"]


@dataclass(frozen=True)
class NewJob:
    """A job that a caller submits.

    Args:
        id: random, so that a repeated submission is recognised.
        owner: the caller who alone may see it; "" where the service asks for no keys.
        kind: the interface that it came through.
        facts: what its caller sees of the work, JSON-ready: model, seed, size and so on.
        request: the work, as the worker reads it.
        total: steps of the work.
        key: the caller's own name of the submission, which makes one job however often it comes; or None.
        fingerprint: of the submission, so that another one under the same key is refused.
    """

    id: str
    owner: str
    kind: Kind
    facts: Mapping[str, Any]
    request: bytes
    total: int
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Job:
    """The present state of a job.

    Args:
        id, owner, kind, facts, total: as in `NewJob`.
        status: where it is in its life.
        created, started, finished: seconds since 1970; None before.
        done: steps done by the present run.
        losses: workers that were lost under it.
        error: `code` and `detail` of the failure, and what else its problem document has; None without one.
        media_type, content_bytes: of its content; None before it is completed.
        last_event: number of its newest event.
    """

    id: str
    owner: str
    kind: Kind
    facts: Mapping[str, Any]
    status: Status
    created: float
    started: float | None
    finished: float | None
    done: int
    total: int
    losses: int
    error: Mapping[str, Any] | None
    media_type: str | None
    content_bytes: int | None
    last_event: int

    @property
    def is_finished(self) -> bool:
        """Return whether nothing happens to it any more."""
        return self.finished is not None


@dataclass(frozen=True)
class Claim:
    """The right to work on a job until its lease ends.

    Args:
        job: the job.
        request: the work.
        token: names this right; a later claim of the same job has a higher one, and ends this one.
    """

    job: Job
    request: bytes
    token: int


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job; a later one of the same name replaces it.

    Args:
        number: grows with each event of the job.
        name: what happened.
        fields: JSON-ready.
    """

    number: int
    name: EventName
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Quotas:
    """The bounds of a store.

    Args:
        jobs: records; the oldest finished ones make way.
        content_bytes: of files and of work that waits; the oldest finished jobs make way.
        finished_seconds: age at which a finished job goes, and one that waits is given up.
        waiting_jobs: unfinished jobs of one caller.
        lease_seconds: silence after which a worker counts as lost.
        tries: workers that may be lost under one job before it fails.
    """

    jobs: int
    content_bytes: int
    finished_seconds: float
    waiting_jobs: int
    lease_seconds: float
    tries: int


@dataclass(frozen=True)
class JobCounts:
    """The state of a store.

    Args:
        by_status: jobs in each status.
        oldest_queued_seconds: age of the job that has waited longest, 0 without one.
        content_bytes: of files and of work that waits.
    """

    by_status: Mapping[Status, int] = field(default_factory=dict)
    oldest_queued_seconds: float = 0.0
    content_bytes: int = 0
