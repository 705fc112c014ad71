"""Jobs of one machine: records in SQLite, contents in files, both in one folder that one process owns at a time."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.jobs.artifacts import Artifacts
from service.jobs.database import Connect, connect, job_of, lock_folder, open_database
from service.jobs.records import STATUSES, Claim, EventName, Job, JobCounts, JobEvent, Kind, NewJob, Quotas
from service.jobs.refusals import LOST, TOO_LATE, key_conflict, store_full, too_many_jobs

log = logging.getLogger("ray.serve")


class SqliteStore:
    """A `JobStore`. Its methods are called by one thread at a time.

    A record is committed to the disk before its method returns. A file is there before the record that names it, and
    goes after it; what a crash leaves between the two is removed at the next start.

    Args:
        folder: of records and files, created if it is missing; on a disk of this machine.
        quotas: bounds.
        clock: seconds since 1970; None counts on steadily from the system's at the opening, whose jumps would end jobs
            or hold them back.
        connect: opens the database.
        artifacts: opens the folder of files.

    Raises:
        StoreInUseError: another process has it.
        OSError, sqlite3.Error: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        quotas: Quotas,
        clock: Callable[[], float] | None = None,
        connect: Connect = connect,
        artifacts: Callable[[Path], Artifacts] = Artifacts,
    ) -> None:
        since = time.time() - time.monotonic()
        self._quotas, self._clock = quotas, clock or (lambda: since + time.monotonic())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock_folder(folder)
        self._artifacts = artifacts(folder / "content")
        self._db = open_database(folder / "jobs.sqlite", connect)
        self._resume()

    def close(self) -> None:
        """Let another process open the same store."""
        self._db.close()
        os.close(self._lock)

    def submit(self, new: NewJob) -> Job:
        """Queue a job; see `JobStore.submit`."""
        now = self._clock()
        with self._changing() as gone:
            known = self._row("id = ? OR (owner = ? AND key = ?)", new.id, new.owner, new.key)
            if known is not None:
                if known["fingerprint"] != new.fingerprint:
                    raise key_conflict()
                return job_of(known)
            self._check_space(new)
            self._evict(now, gone, jobs=1, size=len(new.request))
            row = {
                "id": new.id,
                "owner": new.owner,
                "key": new.key,
                "fingerprint": new.fingerprint,
                "kind": new.kind,
                "facts": json.dumps(new.facts),
                "created": now,
                "total": new.total,
                "bytes": len(new.request),
                "runnable_at": now,
            }
            places = ", ".join("?" * len(row))
            self._db.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({places})", tuple(row.values()))
            self._db.execute("INSERT INTO requests SELECT number, ? FROM jobs WHERE id = ?", (new.request, new.id))
            self._event(new.id, "queued", {})
            return self._job(new.id)

    def get(self, owner: str, job_id: str) -> Job | None:
        """Return a job of an owner."""
        row = self._row("owner = ? AND id = ?", owner, job_id)
        return None if row is None else job_of(row)

    def jobs(
        self, owner: str, limit: int, after: str | None = None, ascending: bool = False, kind: Kind | None = None
    ) -> list[Job]:
        """Return jobs of an owner in the order of submission; see `JobStore.jobs`."""
        past = None if after is None else self._row("owner = ? AND id = ?", owner, after)
        sign, order = (">", "ASC") if ascending else ("<", "DESC")
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE owner = ? AND (? IS NULL OR kind = ?) AND (? IS NULL OR number {sign} ?)"
            f" ORDER BY number {order} LIMIT ?",
            (owner, kind, kind, *(2 * (None if past is None else past["number"],)), limit),
        )
        return [job_of(row) for row in rows]

    def events(self, owner: str, job_id: str, after: int) -> list[JobEvent] | None:
        """Return the events of a job with higher numbers."""
        row = self._row("owner = ? AND id = ?", owner, job_id)
        if row is None:
            return None
        found = self._db.execute(
            "SELECT * FROM events WHERE job = ? AND number > ? ORDER BY number", (row["number"], after)
        )
        return [JobEvent(event["number"], event["name"], json.loads(event["fields"])) for event in found]

    def cancel(self, owner: str, job_id: str) -> Job | None:
        """End a job that is not finished, and return it."""
        with self._changing() as gone:
            row = self._row("owner = ? AND id = ?", owner, job_id)
            if row is None:
                return None
            if row["finished"] is None:
                self._end(row, gone, "cancelled", {})
            return self._job(job_id)

    def delete(self, owner: str, job_id: str) -> bool:
        """Forget a job and its content; return whether it was there."""
        with self._changing() as gone:
            row = self._row("owner = ? AND id = ?", owner, job_id)
            if row is not None:
                self._remove(row, gone)
            return row is not None

    def read(self, owner: str, job_id: str, offset: int, length: int) -> bytes | None:
        """Return a piece of the content of a completed job."""
        row = self._row("owner = ? AND id = ?", owner, job_id)
        return None if row is None or row["content"] is None else self._artifacts.read(row["content"], offset, length)

    def claim(self, worker: str) -> Claim | None:
        """Return the next job to work on: of the caller with the fewest under way, the oldest."""
        now = self._clock()
        with self._changing() as gone:
            row = self._row("status = 'in_progress' AND worker = ?", worker)
            if row is None:
                self._take_back(now, gone)
                row = self._db.execute(
                    "SELECT * FROM jobs AS job WHERE status = 'queued' AND runnable_at <= ? ORDER BY (SELECT count(*)"
                    " FROM jobs WHERE owner = job.owner AND status = 'in_progress'), number LIMIT 1",
                    (now,),
                ).fetchone()
                if row is None:
                    return None
                self._db.execute(
                    "UPDATE jobs SET status = 'in_progress', worker = ?, token = token + 1, lease_until = ?, done = 0,"
                    " started = coalesce(started, ?) WHERE number = ?",
                    (worker, now + self._quotas.lease_seconds, now, row["number"]),
                )
                self._event(row["id"], "started", {})
                row = self._row("number = ?", row["number"])
                assert row is not None
            (data,) = self._db.execute("SELECT data FROM requests WHERE job = ?", (row["number"],)).fetchone()
            return Claim(job_of(row), data, row["token"])

    def renew(self, job_id: str, token: int, done: int) -> bool:
        """Report progress, and keep the job."""
        with self._changing():
            row = self._held(job_id, token)
            if row is None:
                return False
            self._db.execute(
                "UPDATE jobs SET lease_until = ?, done = ? WHERE number = ?",
                (self._clock() + self._quotas.lease_seconds, done, row["number"]),
            )
            if done != row["done"]:
                self._event(job_id, "progress", {"done": done, "total": row["total"]})
            return True

    def release(self, job_id: str, token: int, seconds: float) -> bool:
        """Give a job back, to be claimed after some time."""
        with self._changing() as gone:
            row = self._held(job_id, token)
            if row is not None:
                self._requeue(row, gone, self._clock() + seconds, lost=False)
            return row is not None

    def write(self, job_id: str, token: int, offset: int, data: bytes) -> bool:
        """Add a piece of the content."""
        if self._held(job_id, token) is None:
            return False
        self._artifacts.write(_content(job_id, token), offset, data)
        return True

    def complete(self, job_id: str, token: int, media_type: str, size: int) -> bool:
        """Publish the content whose pieces were written; a repetition changes nothing."""
        name = _content(job_id, token)
        if self._held(job_id, token) is None:
            row = self._row("id = ?", job_id)
            return row is not None and row["content"] == name
        self._artifacts.finish(name, size)
        with self._changing() as gone:
            row = self._held(job_id, token)
            assert row is not None  # nothing else changed the store between the two
            self._evict(self._clock(), gone, size=size - row["bytes"])
            self._end(row, [], "completed", {"media_type": media_type, "bytes": size})
            self._db.execute(
                "UPDATE jobs SET media_type = ?, bytes = ?, content = ?, done = total WHERE number = ?",
                (media_type, size, name, row["number"]),
            )
            return True

    def fail(self, job_id: str, token: int, error: Mapping[str, Any]) -> bool:
        """End a job without content; a repetition changes nothing."""
        with self._changing() as gone:
            row = self._held(job_id, token)
            if row is not None:
                self._end(row, gone, "failed", error)
                return True
            row = self._row("id = ?", job_id)
            return row is not None and row["status"] == "failed" and row["token"] == token

    def sweep(self) -> JobCounts:
        """Remove what is over its age, take back the jobs of lost workers, and return the state."""
        now = self._clock()
        with self._changing() as gone:
            self._take_back(now, gone)
            self._evict(now, gone)
        counts = dict(self._db.execute("SELECT status, count(*) FROM jobs GROUP BY status").fetchall())
        oldest, size = self._db.execute(
            "SELECT min(CASE status WHEN 'queued' THEN created END), coalesce(sum(bytes), 0) FROM jobs"
        ).fetchone()
        by_status = {status: counts.get(status, 0) for status in STATUSES}
        return JobCounts(by_status, 0.0 if oldest is None else max(0.0, now - oldest), size)

    def _resume(self) -> None:
        """Let workers that live report again, and remove files that no record names."""
        # The system's clock may have been put back since.
        now = self._clock()
        with self._changing():
            self._db.execute(
                "UPDATE jobs SET lease_until = ? WHERE status = 'in_progress'", (now + self._quotas.lease_seconds,)
            )
            self._db.execute("UPDATE jobs SET runnable_at = min(runnable_at, ?) WHERE status = 'queued'", (now,))
        kept = {row["content"] for row in self._db.execute("SELECT content FROM jobs WHERE content IS NOT NULL")}
        held = self._db.execute("SELECT id, token FROM jobs WHERE status = 'in_progress'")
        self._artifacts.keep_only(kept | {_content(row["id"], row["token"]) for row in held})

    @contextmanager
    def _changing(self) -> Iterator[list[str]]:
        """Hold a transaction; yield a list for the names of files that go once it is committed."""
        gone: list[str] = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield gone
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for name in gone:
            try:
                self._artifacts.remove(name)
            except OSError as error:  # it happened all the same, and the next start removes the file
                log.warning("the content of a job could not be removed: %s", error)

    def _row(self, condition: str, *values: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(f"SELECT * FROM jobs WHERE {condition}", values).fetchone()
        return row

    def _job(self, job_id: str) -> Job:
        row = self._row("id = ?", job_id)
        assert row is not None
        return job_of(row)

    def _held(self, job_id: str, token: int) -> sqlite3.Row | None:
        return self._row("id = ? AND token = ? AND status = 'in_progress'", job_id, token)

    def _event(self, job_id: str, name: EventName, fields: Mapping[str, Any]) -> None:
        """Add an event in the place of the last one of its name, so that their number is bounded."""
        self._db.execute("UPDATE jobs SET last_event = last_event + 1 WHERE id = ?", (job_id,))
        self._db.execute(
            "DELETE FROM events WHERE name = ? AND job = (SELECT number FROM jobs WHERE id = ?)", (name, job_id)
        )
        self._db.execute(
            "INSERT INTO events SELECT number, last_event, ?, ? FROM jobs WHERE id = ?",
            (name, json.dumps(fields), job_id),
        )

    def _end(self, row: sqlite3.Row, gone: list[str], status: EventName, fields: Mapping[str, Any]) -> None:
        """Finish a job without content; the work and what was written of it go."""
        self._db.execute(
            "UPDATE jobs SET status = ?, finished = ?, error = ?, bytes = 0, worker = NULL WHERE number = ?",
            (status, self._clock(), json.dumps(fields) if status == "failed" else None, row["number"]),
        )
        self._db.execute("DELETE FROM requests WHERE job = ?", (row["number"],))
        self._event(row["id"], status, fields)
        gone.append(_content(row["id"], row["token"]))

    def _requeue(self, row: sqlite3.Row, gone: list[str], runnable_at: float, lost: bool) -> None:
        self._db.execute(
            "UPDATE jobs SET status = 'queued', worker = NULL, done = 0, losses = losses + ?, runnable_at = ?"
            " WHERE number = ?",
            (int(lost), runnable_at, row["number"]),
        )
        self._event(row["id"], "queued", {})
        gone.append(_content(row["id"], row["token"]))

    def _take_back(self, now: float, gone: list[str]) -> None:
        """Queue the jobs of lost workers anew, and give up what was tried or has waited for too long."""
        for row in self._db.execute(
            "SELECT * FROM jobs WHERE status = 'in_progress' AND lease_until < ?", (now,)
        ).fetchall():
            if row["losses"] + 1 >= self._quotas.tries:
                self._end(row, gone, "failed", LOST)
            else:
                self._requeue(row, gone, now, lost=True)
        old = now - self._quotas.finished_seconds
        for row in self._db.execute("SELECT * FROM jobs WHERE status = 'queued' AND created < ?", (old,)).fetchall():
            self._end(row, gone, "failed", TOO_LATE)

    def _remove(self, row: sqlite3.Row, gone: list[str]) -> None:
        self._db.execute("DELETE FROM jobs WHERE number = ?", (row["number"],))
        gone.append(row["content"] or _content(row["id"], row["token"]))

    def _check_space(self, new: NewJob) -> None:
        """Refuse a job where only unfinished ones could make way for it, which nothing removes."""
        quotas = self._quotas
        jobs, size, own = self._db.execute(
            "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(owner = ?), 0) FROM jobs WHERE finished IS NULL",
            (new.owner,),
        ).fetchone()
        if own >= quotas.waiting_jobs:
            raise too_many_jobs(own, quotas.waiting_jobs)
        if jobs >= quotas.jobs or size + len(new.request) > quotas.content_bytes:
            raise store_full(jobs, size)

    def _evict(self, now: float, gone: list[str], jobs: int = 0, size: int = 0) -> None:
        """Remove finished jobs that are too old, and the oldest of whoever has most until so much more fits."""
        old = now - self._quotas.finished_seconds
        for row in self._db.execute("SELECT * FROM jobs WHERE finished < ?", (old,)).fetchall():
            self._remove(row, gone)
        for column, most in (("1", self._quotas.jobs - jobs), ("bytes", self._quotas.content_bytes - size)):
            while self._db.execute(f"SELECT coalesce(sum({column}), 0) > ? FROM jobs", (most,)).fetchone()[0]:
                row = self._db.execute(
                    f"SELECT * FROM jobs AS job WHERE finished IS NOT NULL AND {column} > 0 ORDER BY (SELECT"
                    f" sum({column}) FROM jobs WHERE owner = job.owner) DESC, finished, number LIMIT 1"
                ).fetchone()
                if row is None:
                    break
                self._remove(row, gone)


def _content(job_id: str, token: int) -> str:
    return f"{job_id}-{token}"
