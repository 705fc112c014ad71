"""The stores of jobs: quotas, order and callers by example; `test_job_store_machine.py` has leases and crashes."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stores import Clock, Place

from service.errors import ProblemError
from service.jobs import database
from service.jobs.database import StoreInUseError
from service.jobs.records import NewJob, Quotas
from service.jobs.sqlite_store import SqliteStore
from service.jobs.store import JobStore

QUOTAS = Quotas(jobs=4, content_bytes=100, finished_seconds=1000, waiting_jobs=3, lease_seconds=10, tries=2)


@pytest.fixture
def store(place: Place, clock: Clock) -> Iterator[JobStore]:
    store = place.open(QUOTAS, clock)
    yield store
    store.close()


def new(name: str, owner: str = "", **fields: object) -> NewJob:
    return replace(NewJob(name, owner, "job", {"model": "m"}, b"work", 8), **fields)  # type: ignore[arg-type]


def complete(store: JobStore, content: bytes = b"made") -> str:
    """Make the content of the next job; return its id."""
    claim = store.claim("worker")
    assert claim is not None
    assert store.write(claim.job.id, claim.token, 0, content)
    assert store.complete(claim.job.id, claim.token, "text/plain", len(content))
    return claim.job.id


def test_a_job_goes_through_its_life(store: JobStore, clock: Clock) -> None:
    assert store.submit(new("a")).status == "queued"
    claim = store.claim("w")
    assert claim is not None
    assert (claim.request, claim.job.status) == (b"work", "in_progress")
    assert store.claim("another") is None
    clock.now += 1
    assert store.renew("a", claim.token, 3)
    assert store.write("a", claim.token, 0, b"ab")
    assert store.write("a", claim.token, 2, b"cd")
    assert store.write("a", claim.token, 0, b"ab"), "a repeated piece"
    assert store.read("", "a", 0, 9) is None
    assert store.complete("a", claim.token, "text/plain", 4)
    assert store.complete("a", claim.token, "text/plain", 4), "a repeated report"
    job = store.get("", "a")
    assert job is not None
    assert (job.status, job.done, job.media_type, job.content_bytes) == ("completed", 8, "text/plain", 4)
    assert store.read("", "a", 1, 2) == b"bc"
    events = store.events("", "a", 0)
    assert events is not None
    assert [event.name for event in events] == ["queued", "started", "progress", "completed"]
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert store.events("", "a", 3) == events[3:]
    assert store.renew("a", claim.token, 5) is False


def test_a_file_that_lacks_pieces_is_not_published(store: JobStore) -> None:
    store.submit(new("a"))
    claim = store.claim("w")
    assert claim is not None
    store.write("a", claim.token, 0, b"ab")
    with pytest.raises(OSError, match="2 bytes of 4"):
        store.complete("a", claim.token, "text/plain", 4)
    assert store.get("", "a").status == "in_progress"  # type: ignore[union-attr]


def test_callers_see_their_own(store: JobStore) -> None:
    for name, owner in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        store.submit(new(name, owner))
    assert [job.id for job in store.jobs("ann", 9)] == ["c", "a"]
    assert [job.id for job in store.jobs("ann", 9, ascending=True, after="a")] == ["c"]
    assert [job.id for job in store.jobs("ann", 1)] == ["c"]
    assert store.jobs("ann", 9, kind="video") == []
    assert store.get("bob", "a") is None
    assert store.events("bob", "a", 0) is None
    assert store.cancel("bob", "a") is None
    assert not store.delete("bob", "a")
    assert store.get("ann", "a") is not None


def test_callers_take_turns(store: JobStore) -> None:
    for name, owner in (("a1", "ann"), ("a2", "ann"), ("a3", "ann"), ("b1", "bob")):
        store.submit(new(name, owner))
    claims = [store.claim(f"w{number}") for number in range(4)]
    assert [claim.job.id for claim in claims if claim] == ["a1", "b1", "a2", "a3"]


def test_a_claim_is_repeated_for_its_worker(store: JobStore) -> None:
    store.submit(new("a"))
    assert store.claim("w") == store.claim("w") is not None
    assert store.claim("other") is None


def test_a_key_makes_one_job(store: JobStore) -> None:
    first = store.submit(new("a", key="k", fingerprint="f"))
    assert store.submit(new("b", key="k", fingerprint="f")) == first
    assert store.submit(new("c", owner="bob", key="k", fingerprint="g")).id == "c"
    with pytest.raises(ProblemError, match="idempotency-conflict"):
        store.submit(new("d", key="k", fingerprint="g"))
    assert store.submit(new("a", key="k", fingerprint="f")) == first


def test_a_caller_has_so_many_unfinished_jobs(store: JobStore) -> None:
    for name in "abc":
        store.submit(new(name))
    with pytest.raises(ProblemError, match="rate-limited"):
        store.submit(new("d"))
    store.submit(new("e", "bob"))
    with pytest.raises(ProblemError, match="overloaded"):
        store.submit(new("f", "bob"))
    store.cancel("", "a")
    store.submit(new("d"))
    assert store.get("", "a") is None, "a finished record makes way"


def test_the_oldest_content_of_who_has_most_makes_way(store: JobStore, place: Place) -> None:
    for name, owner in (("b", "bob"), ("a1", "ann"), ("a2", "ann")):
        store.submit(new(name, owner))
        complete(store, b"x" * 30)
    store.submit(new("c", "cid", request=b"x" * 11))
    assert store.get("ann", "a1") is None
    assert store.get("bob", "b") is not None
    assert len(place.contents()) == 2
    with pytest.raises(ProblemError, match="overloaded"):
        store.submit(new("d", "cid", request=b"x" * 90))


def test_content_beyond_the_quota_leaves_itself_alone(store: JobStore) -> None:
    store.submit(new("a"))
    complete(store)
    store.submit(new("b"))
    complete(store, b"x" * 200)
    assert store.get("", "a") is None
    assert store.read("", "b", 0, 200) == b"x" * 200


def test_finished_jobs_go_when_they_are_old(store: JobStore, clock: Clock, place: Place) -> None:
    store.submit(new("a"))
    complete(store)
    clock.now += QUOTAS.finished_seconds - 1
    store.submit(new("b"))
    clock.now += 2
    counts = store.sweep()
    assert counts.by_status == {"queued": 1, "in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0}
    assert counts.oldest_queued_seconds == 2
    assert counts.content_bytes == len(b"work")
    assert not place.contents()


def test_a_job_that_waits_for_too_long_fails(store: JobStore, clock: Clock) -> None:
    store.submit(new("a"))
    clock.now += QUOTAS.finished_seconds + 1
    store.sweep()
    job = store.get("", "a")
    assert job is not None
    assert (job.status, job.error and job.error["code"]) == ("failed", "deadline-exceeded")


def test_a_job_that_ends_its_workers_fails(store: JobStore, clock: Clock) -> None:
    store.submit(new("a"))
    for _ in range(QUOTAS.tries):
        assert store.claim("w") is not None
        clock.now += QUOTAS.lease_seconds + 1
        store.sweep()
    job = store.get("", "a")
    assert job is not None
    assert (job.status, job.error and job.error["code"]) == ("failed", "internal")


def test_a_job_that_was_given_back_waits(store: JobStore, clock: Clock) -> None:
    store.submit(new("a"))
    claim = store.claim("w")
    assert claim is not None
    assert store.release("a", claim.token, 5)
    assert store.claim("w2") is None
    clock.now += 5
    again = store.claim("w2")
    assert again is not None
    assert again.token > claim.token
    assert not store.complete("a", claim.token, "text/plain", 0)


@pytest.mark.parametrize("jump", [-3600, QUOTAS.finished_seconds + 3600])
def test_a_system_clock_that_jumps_neither_ends_jobs_nor_holds_them_back(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = SqliteStore(tmp_path, QUOTAS), time.time()
    store.submit(new("a"))
    store.submit(new("b"))
    claim = store.claim("w")
    assert claim is not None
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert store.sweep().by_status["in_progress"] == 1
    assert store.claim("w2") is not None
    assert store.renew("a", claim.token, 1)
    store.close()


def test_jobs_go_on_after_a_start_at_an_earlier_time(tmp_path: Path, clock: Clock) -> None:
    clock.now = 1e9
    store = SqliteStore(tmp_path, QUOTAS, clock)
    for name in ("a", "b"):
        store.submit(new(name))
    assert store.claim("lost") is not None
    store.close()
    clock.now -= 3600
    store = SqliteStore(tmp_path, QUOTAS, clock)
    assert store.claim("w") is not None, "the one that waited"
    clock.now += QUOTAS.lease_seconds + 1
    assert store.claim("w2") is not None, "that of the lost worker"
    store.close()


def _open_and_die(folder: Path) -> None:
    SqliteStore(folder, QUOTAS).submit(new("a"))
    multiprocessing.current_process().kill()


def test_a_killed_owner_lets_go_and_loses_nothing(tmp_path: Path) -> None:
    owner = multiprocessing.get_context("fork").Process(target=_open_and_die, args=(tmp_path,))
    owner.start()
    owner.join()
    store = SqliteStore(tmp_path, QUOTAS)
    assert store.get("", "a") is not None
    store.close()


def test_one_process_owns_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OPEN_SECONDS", 0.0)
    store = SqliteStore(tmp_path, QUOTAS)
    with pytest.raises(StoreInUseError, match="Name another folder"):
        SqliteStore(tmp_path, QUOTAS)
    store.close()


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    SqliteStore(tmp_path, QUOTAS).close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as file:
        file.execute("PRAGMA user_version = 9")
    with pytest.raises(OSError, match="version 9"):
        SqliteStore(tmp_path, QUOTAS)
