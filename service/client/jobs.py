"""Calls of jobs and the reading of their answers, the same for both clients; nothing here sends anything."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx

from service.client.calls import Call
from service.client.generation import Prefix, generate_call
from service.client.retries import ServiceError
from service.formats.media_types import EVENT_STREAM, MSGPACK

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
LAST_EVENTS = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True)
class Job:
    """A job as the service described it last.

    Args:
        id: names it in every call.
        status: where it is in its life.
        done, total: steps.
        media_type: of its content, None before it is completed.
        error: `code` and `detail` of its failure, or None.
        fields: all that the service says: model, seed, size, times and so on.
    """

    id: str
    status: Status
    done: int
    total: int
    media_type: str | None
    error: Mapping[str, Any] | None
    fields: Mapping[str, Any] = field(repr=False)

    @property
    def is_finished(self) -> bool:
        """Return whether nothing happens to it any more."""
        return self.status in LAST_EVENTS


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job.

    Args:
        number: grows with each event; a stream resumes after it.
        name: queued, started, progress, completed, failed or cancelled.
        fields: `done` and `total` steps of progress, `media_type` and `bytes` of content, a failure's document.
    """

    number: int
    name: str
    fields: Mapping[str, Any]

    @property
    def is_last(self) -> bool:
        """Return whether nothing follows."""
        return self.name in LAST_EVENTS


def submit_call(
    class_: int | str | None, prefix: Prefix | None, options: Mapping[str, Any], accept: str | None
) -> Call:
    """Return the call that submits a generation, which makes one job however often it is sent.

    Args:
        class_, prefix, options: as for `generate_call`, with its errors.
        accept: media type of the content; arrays in msgpack if None.
    """
    call = generate_call(class_, prefix, options, accept or MSGPACK)
    return replace(call, headers={**call.headers, "Prefer": "respond-async", "Idempotency-Key": str(uuid.uuid4())})


def job_call(job: Job | str, part: str = "", method: str = "GET") -> Call:
    """Return the call that asks for a job, or for a part of it."""
    return Call(method, f"/jobs/{job if isinstance(job, str) else job.id}{part}")


def jobs_call(limit: int, after: Job | str | None) -> Call:
    """Return the call that lists jobs."""
    return Call("GET", "/jobs", {"limit": limit, "after": after.id if isinstance(after, Job) else after})


def events_call(job: Job | str, after: int) -> Call:
    """Return the call that streams the events of a job after the one of that number."""
    return replace(job_call(job, "/events"), headers={"Accept": EVENT_STREAM, "Last-Event-ID": str(after)})


def job_of(response: httpx.Response) -> Job:
    """Return the job in an answer."""
    return _job(response.json())


def jobs_of(response: httpx.Response) -> list[Job]:
    """Return the jobs in a list."""
    return [_job(fields) for fields in response.json()["data"]]


def completed(job: Job) -> Job:
    """Return a finished job.

    Raises:
        ServiceError: it failed, or was cancelled.
    """
    if job.error is not None:
        raise ServiceError(job.error["detail"], job.error.get("status"), dict(job.error))
    if job.status == "cancelled":
        raise ServiceError(f"The job {job.id} was cancelled.")
    return job


class JobEventReader:
    """The parser of a stream of events, fed line by line.

    Attributes:
        after: number of the last event.
        failures: streams that broke since then.
    """

    def __init__(self) -> None:
        self.after = self.failures = 0
        self._number, self._name = 0, ""

    def feed(self, line: str) -> JobEvent | None:
        """Return the event that a line completes, if it does."""
        kind, _, text = line.partition(": ")
        if kind == "id":
            self._number = int(text)
        elif kind == "event":
            self._name = text
        elif kind == "data":
            self.after, self.failures = self._number, 0
            return JobEvent(self._number, self._name, json.loads(text))
        return None

    def broke(self, error: ServiceError, retries: int) -> None:
        """Note that a stream broke.

        Raises:
            ServiceError: too often without news, or for good.
        """
        self.failures += 1
        if error.status is not None or self.failures > retries:
            raise error


def _job(fields: dict[str, Any]) -> Job:
    content = fields["content"]
    return Job(
        fields["id"],
        fields["status"],
        fields["progress"]["done"],
        fields["progress"]["total"],
        None if content is None else content["media_type"],
        fields["error"],
        fields,
    )
