"""A full queue refuses the like of what it refused a moment ago before the body is read, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import http.client
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from api_media import picture, scene
from api_server import Server

from service.api.recent_refusals import RecentRefusals
from service.drain_rate import retry_after
from service.errors import ProblemError
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack
from service.formats.tensors import pack_tensor
from service.settings import Settings

FULL = ProblemError("overloaded", "The queue is full.", 1, 2, [], 2.0)
LARGE, SMALL = (pack({"array": pack_tensor(scene(1, side, side))}) for side in (64, 16))


def test_the_like_is_refused_for_a_moment() -> None:
    now = 0.0
    refusals = RecentRefusals(lambda: now)
    refusals.check("kind", 1000, 5.0)
    refusals.note("kind", 1000, 5.0, FULL)
    with pytest.raises(ProblemError) as again:
        refusals.check("kind", 500, 5.0)
    assert again.value == FULL
    assert again.value is not FULL, "each request has its own"
    refusals.check("kind", 499, 5.0)
    refusals.check("kind", 1000, 5.1)
    refusals.check("another", 1000, 5.0)
    now = 0.075
    assert refusals.pause("kind", FULL) == pytest.approx(0.025), "a refusal that is given again prolongs nothing"
    assert refusals.pause("another", FULL) == 0.1
    now = 0.1
    refusals.check("kind", 1000, 5.0)
    assert refusals.pause("kind", FULL) == 0.1


@pytest.mark.parametrize("wait", [0.05, 0.1, 0.5, 2.0, 30.0])
def test_in_a_pause_a_queue_drains_by_a_quarter_at_most(wait: float) -> None:
    refusals = RecentRefusals(lambda: 0.0)
    problem = ProblemError("overloaded", "Full.", retry_after_seconds=retry_after(wait))
    assert 0 < refusals.pause("kind", problem) <= wait / 4


@pytest.mark.parametrize(
    "problem", [ProblemError("overloaded", "Full."), ProblemError("gpu-memory", "No.", retry_after_seconds=2.0)]
)
def test_other_refusals_are_not_given_again(problem: ProblemError) -> None:
    refusals = RecentRefusals(lambda: 0.0)
    refusals.note("kind", 1000, 5.0, problem)
    refusals.note("unknown size", 0, 5.0, FULL)
    refusals.check("kind", 1000, 5.0)
    refusals.check("unknown size", 0, 5.0)


def test_a_refusal_keeps_nothing_of_its_request() -> None:
    refusals = RecentRefusals(lambda: 0.0)
    bodies: list[weakref.ref[Any]] = []

    def refuse() -> None:
        body = np.zeros(1)
        bodies.append(weakref.ref(body))
        raise replace(FULL)

    try:
        refuse()
    except ProblemError as problem:
        refusals.note("kind", 1000, 5.0, problem)
    gc.collect()
    assert bodies[0]() is None


def test_callers_without_end_are_forgotten() -> None:
    refusals = RecentRefusals(lambda: 0.0)
    for caller in range(5000):
        refusals.note(caller, 1000, 5.0, FULL)
    refusals.check(0, 1000, 5.0)
    with pytest.raises(ProblemError):
        refusals.check(4999, 1000, 5.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("PAUSE_SHARE", "PAUSE_MAX_SECONDS"):
        monkeypatch.setattr(f"service.api.recent_refusals.{name}", 60.0)

    async def refuse() -> None:
        await asyncio.sleep(0)
        raise FULL

    with Server(Settings()) as server:
        server.backend.stall = server.generators.stall = refuse
        yield server


def test_the_queue_is_not_asked_again(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def post(body: bytes, **headers: str) -> int:
        connection.request("POST", "/encode", body, {"Content-Type": MSGPACK} | headers)
        answer = connection.getresponse()
        assert b"The queue is full." in answer.read()
        assert answer.headers["Retry-After"] == "2"
        assert answer.headers["Connection"] != "close", "it can be used again"
        pause = int(answer.headers.get("X-Refuse-Alike", 0))
        assert 0 < pause <= 60_000 if "Idempotency-Key" not in headers else not pause
        return server.backend.calls

    hurried = {"X-Request-Timeout-Seconds": "20"}
    assert post(LARGE, **hurried) == 1
    assert post(LARGE) == 2, "it can wait longer"
    assert post(LARGE) == 2
    assert post(LARGE, **hurried) == 2
    assert post(SMALL) == 3, "it may still be taken"
    assert post(LARGE, **{"X-Request-Priority": "bulk"}) == 4
    assert post(LARGE, **{"Idempotency-Key": "one"}) == 5, "its answer might be there"
    assert post(LARGE, **{"X-Caller-Group": "7"}) == 6, "other callers, as HAProxy says"
    assert post(LARGE, **{"X-Caller-Group": "7"}) == 6
    assert post(picture(height=256, width=256), **{"Content-Type": "image/png"}) == 7, (
        "a file's size says something else"
    )


def test_a_full_queue_of_samples_refuses_no_job(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def generate(**headers: str) -> http.client.HTTPResponse:
        connection.request("POST", "/generate", b'{"class": 0}', {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        answer.read()
        return answer

    for _ in range(2):
        refused = generate()
        assert refused.status == 503
        assert "X-Refuse-Alike" not in refused.headers, "HAProxy does not know one queue of samples from another"
    assert len(server.generators.jobs) == 1
    assert generate(Prefer="respond-async").status == 202
