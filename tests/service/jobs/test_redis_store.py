"""Jobs in Redis: several processes at one store, a server that goes away, is full, or holds another form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis_server import NEEDS_REDIS, redis_server
from stores import RedisPlace

from service.jobs.records import NewJob, Quotas
from service.jobs.redis_store import PREFIX, RedisStore, StoreUnreachableError

pytestmark = NEEDS_REDIS
QUOTAS = Quotas(jobs=9, content_bytes=10**6, finished_seconds=1000, waiting_jobs=9, lease_seconds=10, tries=2)


@pytest.fixture
def own(redis_url: str) -> RedisPlace:
    return RedisPlace(redis_url)


@pytest.fixture
def stores(own: RedisPlace) -> Iterator[list[RedisStore]]:
    stores = [RedisStore(own.url, QUOTAS) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def new(name: str) -> NewJob:
    return NewJob(name, "", "job", {"model": "m"}, b"work", 8)


def test_two_processes_share_jobs_and_never_a_claim(stores: list[RedisStore]) -> None:
    first, second = stores
    for number in range(4):
        stores[number % 2].submit(new(f"j{number}"))
    claims = [store.claim(f"w{number}") for number, store in enumerate([first, second, first, second])]
    assert [claim.job.id for claim in claims if claim] == ["j0", "j1", "j2", "j3"]
    assert claims[0] is not None
    assert first.write("j0", claims[0].token, 0, b"made")
    assert second.complete("j0", claims[0].token, "text/plain", 4)
    assert first.read("", "j0", 0, 9) == b"made"
    assert first.sweep() == replace(second.sweep(), oldest_queued_seconds=0.0)
    job = second.get("", "j0")
    assert job is not None
    assert abs(job.created - time.time()) < 60, "the clock is the server's"


def test_a_server_that_is_killed_keeps_its_jobs_and_their_leases(tmp_path: Path) -> None:
    now = 1000.0
    with redis_server(tmp_path) as (url, _):
        store = RedisStore(url, QUOTAS, lambda: now)
        store.submit(new("a"))
        claim = store.claim("w")
        assert claim is not None
        store.write("a", claim.token, 0, b"half")
    now += QUOTAS.lease_seconds + 1
    with pytest.raises(StoreUnreachableError):
        store.claim("w2")
    with redis_server(tmp_path):
        assert store.claim("w2") is None, "the worker could not report, so it has its time again"
        assert store.complete("a", claim.token, "text/plain", 4)
        assert store.read("", "a", 0, 9) == b"half"
        store.close()


def test_a_full_server_refuses_as_a_whole(stores: list[RedisStore], own: RedisPlace) -> None:
    own.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnreachableError, match="memory"):
            stores[0].submit(new("a"))
    finally:
        own.client.config_set("maxmemory", 0)
    assert stores[0].get("", "a") is None
    assert stores[0].submit(new("a")).status == "queued"


def test_another_form_is_refused(own: RedisPlace) -> None:
    own.client.set(f"{PREFIX}version", 9)
    with pytest.raises(OSError, match="version 9"):
        RedisStore(own.url, QUOTAS)
