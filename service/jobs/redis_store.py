"""Jobs of several machines: records and contents in Redis or Valkey, which does each script as one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from service.jobs.records import STATUSES, Claim, Job, JobCounts, JobEvent, Kind, NewJob, Quotas
from service.jobs.refusals import LOST, TOO_LATE, key_conflict, store_full, too_many_jobs

PREFIX = "{omnitok-jobs}:"  # the braces keep all keys on one node of a cluster
SCRIPT = Path(__file__).with_name("redis_store.lua")
VERSION = "1"  # as the script has it
TIMEOUT_SECONDS = 5.0  # below the time that callers give the owner of the jobs

Connect = Callable[[str], redis.Redis]
Value = str | int | float | bytes


class StoreUnreachableError(OSError):
    """Redis does not answer, or refuses; the message is one sentence."""


def connect(url: str) -> redis.Redis:
    """Return a client that connects when it is used, and again after a connection broke."""
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)


class RedisStore:
    """A `JobStore` that any number of processes may open. The methods of one are called by one thread at a time.

    A job that was accepted survives what Redis survives: give it `appendonly yes`, `appendfsync always`, and a
    `maxmemory-policy` that evicts nothing.

    Args:
        url: of Redis or Valkey, such as "redis://:password@host:6379/0".
        quotas: bounds; all that open the store should name the same.
        clock: seconds since 1970; None takes the server's, which all processes share.
        connect: returns a client.

    Raises:
        StoreUnreachableError: Redis does not answer, or refuses.
        OSError: the jobs there are in another form.
    """

    def __init__(
        self, url: str, quotas: Quotas, clock: Callable[[], float] | None = None, connect: Connect = connect
    ) -> None:
        self._quotas, self._clock = quotas, clock
        self._bounds = json.dumps(asdict(quotas) | {"lost": json.dumps(LOST), "too_late": json.dumps(TOO_LATE)})
        self._client = connect(url)
        self._script = self._client.register_script(SCRIPT.read_text())
        self._was_lost = False
        self._resume()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def submit(self, new: NewJob) -> Job:
        """Queue a job; see `JobStore.submit`."""
        fields = (new.id, new.owner, new.key or "", new.fingerprint, new.kind, json.dumps(new.facts), new.total)
        answer, *values = self._call("submit", *fields, new.request)
        match answer:
            case b"idempotency-conflict":
                raise key_conflict()
            case b"rate-limited":
                raise too_many_jobs(values[0], self._quotas.waiting_jobs)
            case b"overloaded":
                raise store_full(values[0], values[1])
        return _job(values[0])

    def get(self, owner: str, job_id: str) -> Job | None:
        """Return a job of an owner."""
        found = self._call("get", owner, job_id)
        return None if found is None else _job(found)

    def jobs(
        self, owner: str, limit: int, after: str | None = None, ascending: bool = False, kind: Kind | None = None
    ) -> list[Job]:
        """Return jobs of an owner in the order of submission; see `JobStore.jobs`."""
        return [_job(found) for found in self._call("jobs", owner, limit, after or "", int(ascending), kind or "")]

    def events(self, owner: str, job_id: str, after: int) -> list[JobEvent] | None:
        """Return the events of a job with higher numbers."""
        found = self._call("events", owner, job_id)
        if found is None:
            return None
        events = []
        for name, text in zip(found[::2], found[1::2], strict=True):
            number, _, fields = text.partition(b" ")
            events.append(JobEvent(int(number), name.decode(), json.loads(fields)))
        return sorted((event for event in events if event.number > after), key=lambda event: event.number)

    def cancel(self, owner: str, job_id: str) -> Job | None:
        """End a job that is not finished, and return it."""
        found = self._call("cancel", owner, job_id)
        return None if found is None else _job(found)

    def delete(self, owner: str, job_id: str) -> bool:
        """Forget a job and its content; return whether it was there."""
        return bool(self._call("delete", owner, job_id))

    def read(self, owner: str, job_id: str, offset: int, length: int) -> bytes | None:
        """Return a piece of the content of a completed job."""
        found: bytes | None = self._call("read", owner, job_id, offset, length)
        return found

    def claim(self, worker: str) -> Claim | None:
        """Return the next job to work on: of the caller with the fewest under way, the oldest."""
        found = self._call("claim", worker)
        return None if found is None else Claim(_job(found[0]), found[1], int(found[2]))

    def renew(self, job_id: str, token: int, done: int) -> bool:
        """Report progress, and keep the job."""
        return bool(self._call("renew", job_id, token, done))

    def release(self, job_id: str, token: int, seconds: float) -> bool:
        """Give a job back, to be claimed after some time."""
        return bool(self._call("release", job_id, token, seconds))

    def write(self, job_id: str, token: int, offset: int, data: bytes) -> bool:
        """Add a piece of the content."""
        return bool(self._call("write", job_id, token, offset, data))

    def complete(self, job_id: str, token: int, media_type: str, size: int) -> bool:
        """Publish the content whose pieces were written; a repetition changes nothing."""
        happened, *there = self._call("complete", job_id, token, media_type, size)
        if there:
            raise OSError(f"The content {job_id}-{token} has {there[0]} bytes of {size}.")
        return bool(happened)

    def fail(self, job_id: str, token: int, error: Mapping[str, Any]) -> bool:
        """End a job without content; a repetition changes nothing."""
        return bool(self._call("fail", job_id, token, json.dumps(error)))

    def sweep(self) -> JobCounts:
        """Remove what is over its age, take back the jobs of lost workers, and return the state."""
        size, oldest, counts = self._call("sweep")
        counted = json.loads(counts)
        return JobCounts({status: counted.get(status, 0) for status in STATUSES}, float(oldest), int(size))

    def _resume(self) -> None:
        """Let workers that live report again, after a time in which no report came through."""
        version = self._run("resume").decode()
        if version != VERSION:
            raise OSError(f"The jobs in Redis have version {version} of their form, not {VERSION}. Name another one.")
        self._was_lost = False

    def _call(self, method: str, *arguments: Value) -> Any:
        """Run a method of the script; after a loss, workers have their time again first."""
        if self._was_lost:
            self._resume()
        return self._run(method, *arguments)

    def _run(self, method: str, *arguments: Value) -> Any:
        now = "" if self._clock is None else self._clock()
        try:
            return self._script(keys=[PREFIX], args=[method, now, self._bounds, *arguments])
        except redis.RedisError as error:
            self._was_lost = True
            raise StoreUnreachableError(f"Redis has not done what the jobs need: {error}") from error


def _job(flat: list[bytes]) -> Job:
    """Return the record in a hash."""
    fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def text(name: str) -> Any:
        return fields[name].decode() if name in fields else None

    def seconds(name: str) -> float | None:
        return float(fields[name]) if name in fields else None

    return Job(
        text("id"),
        text("owner"),
        text("kind"),
        json.loads(fields["facts"]),
        text("status"),
        float(fields["created"]),
        seconds("started"),
        seconds("finished"),
        int(fields["done"]),
        int(fields["total"]),
        int(fields["losses"]),
        json.loads(fields["error"]) if "error" in fields else None,
        text("media_type"),
        int(fields["bytes"]) if "content" in fields else None,
        int(fields["last_event"]),
    )
