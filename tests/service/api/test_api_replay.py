"""Answers that are given again, by idempotency key and by content."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_media import picture
from api_server import Server
from bad_inputs import LIMITS
from waiting import eventually

from service.errors import ProblemError
from service.keys import new_key, write_keys
from service.settings import Settings
from service.stored_answer import LocalKeyedAnswers

PNG = {"Content-Type": "image/png"}
KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
def caching() -> Iterator[Server]:
    with Server(Settings(limits=LIMITS, cache_bytes=2**20)) as server:
        yield server


@pytest.fixture
def http(caching: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=caching.url, timeout=60) as client:
        yield client
    caching.backend.stall = None
    eventually(lambda: not any(caching.counts.flying.values()))


def body(number: int) -> bytes:
    """Return one of many pictures."""
    return picture(height=40 + number)


class Gate:
    """Holds the calls of a backend until it opens, and then lets them pass or fail."""

    def __init__(self, server: Server, failure: ProblemError | None = None) -> None:
        self._open, self._failure = threading.Event(), failure
        server.backend.stall = self._wait

    async def _wait(self) -> None:
        while not self._open.is_set():
            await asyncio.sleep(0.001)
        if self._failure is not None:
            raise self._failure

    def open(self) -> None:
        self._open.set()


def send(pool: ThreadPoolExecutor, server: Server, seed: int, **headers: str) -> Future[httpx.Response]:
    content = body(seed)
    return pool.submit(lambda: httpx.post(f"{server.url}/encode", content=content, headers=PNG | headers, timeout=60))


def connect(server: Server, seed: int) -> socket.socket:
    """Return the connection of a request like those of `send`, which its client may close."""
    content = body(seed)
    connection = socket.create_connection(("127.0.0.1", server.port))
    fields = f"Host: x\r\nAccept: */*\r\nContent-Type: image/png\r\nContent-Length: {len(content)}"
    connection.sendall(f"POST /encode HTTP/1.1\r\n{fields}\r\n\r\n".encode() + content)
    return connection


def collapsed(server: Server) -> int:
    """Return how many calls waited for the work of another."""
    results: Counter[str] = server.app.state.services.replays.results
    return results["collapsed"]


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_equal_calls_are_computed_once(http: httpx.Client, caching: Server) -> None:
    calls = caching.backend.calls
    first, again = (http.post("/encode", content=body(1), headers=PNG) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert caching.backend.calls == calls + 1
    assert first.headers["cache-status"] == "omnitok; fwd=uri-miss; stored"
    assert again.headers["cache-status"] == "omnitok; hit"
    assert int(again.headers["age"]) >= 0
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert first.headers["traceresponse"] != again.headers["traceresponse"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/encode?size=32", {}),
        ("/encode?model=blocks-vae", {}),
        ("/reconstruct", {}),
        ("/encode", {"Accept": "application/json"}),
        ("/encode", {"Cache-Control": "no-cache"}),
    ],
)
def test_other_calls_are_computed(http: httpx.Client, caching: Server, path: str, headers: dict[str, str]) -> None:
    http.post("/encode", content=body(2), headers=PNG)
    calls = caching.backend.calls
    answer = http.post(path, content=body(2), headers=PNG | headers)
    assert answer.status_code == 200
    assert caching.backend.calls == calls + 1
    assert "hit" not in answer.headers.get("cache-status", "")


def test_another_default_bundle_makes_other_answers(http: httpx.Client, caching: Server) -> None:
    first = http.post("/encode", content=body(3), headers=PNG)
    caching.backend.cards = caching.backend.cards[::-1]
    try:
        other = http.post("/encode", content=body(3), headers=PNG)
    finally:
        caching.backend.cards = caching.backend.cards[::-1]
    assert first.headers["x-omnitok-bundle"] != other.headers["x-omnitok-bundle"]


def test_refusals_are_not_kept(http: httpx.Client) -> None:
    for _ in range(2):
        answer = http.post("/encode", content=b"nothing", headers=PNG)
        assert answer.status_code >= 400
        assert "cache-status" not in answer.headers


def test_who_asks_meanwhile_waits_for_the_same_work(http: httpx.Client, caching: Server) -> None:
    gate, calls, before = Gate(caching), caching.backend.calls, collapsed(caching)
    with ThreadPoolExecutor(4) as pool:
        answers = [send(pool, caching, 4) for _ in range(4)]
        eventually(lambda: collapsed(caching) == before + 3)
        gate.open()
        found = [answer.result() for answer in answers]
    assert {answer.status_code for answer in found} == {200}
    assert len({answer.content for answer in found}) == 1
    assert caching.backend.calls == calls + 1
    assert sum("collapsed" in answer.headers["cache-status"] for answer in found) == 3


def test_the_answer_outlives_the_client_that_asked_first(http: httpx.Client, caching: Server) -> None:
    gate, calls, cancelled = Gate(caching), caching.backend.calls, caching.backend.cancelled
    before, gone = collapsed(caching), caching.counts.requests["/encode", "POST", "499"]
    with ThreadPoolExecutor(1) as pool:
        first = connect(caching, 5)
        eventually(lambda: caching.backend.waiting == 1)
        second = send(pool, caching, 5)
        eventually(lambda: collapsed(caching) == before + 1)
        first.close()
        eventually(lambda: caching.counts.requests["/encode", "POST", "499"] == gone + 1)
        gate.open()
        assert second.result().status_code == 200
    third = http.post("/encode", content=body(5), headers=PNG)
    assert third.headers["cache-status"] == "omnitok; hit"
    assert (caching.backend.calls, caching.backend.cancelled) == (calls + 1, cancelled)


def test_work_that_nobody_waits_for_is_cancelled(http: httpx.Client, caching: Server) -> None:
    Gate(caching)
    cancelled = caching.backend.cancelled
    for number in (1, 2):
        connection = connect(caching, 6)
        eventually(lambda: caching.backend.waiting == 1)
        connection.close()
        eventually(lambda number=number: caching.backend.cancelled == cancelled + number)
        eventually(lambda: caching.backend.waiting == 0)  # or the next would pass for this one


def test_callers_do_not_share(tmp_path: Path) -> None:
    made = [new_key(name, ["encode"], 100_000) for name in ("one", "other")]
    write_keys(tmp_path / "keys.json", [key for _, key in made])
    settings = Settings(limits=LIMITS, cache_bytes=2**20, keys=tmp_path / "keys.json", ingress_replicas=1)
    with Server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        answers = []
        for secret, _ in (*made, *made):
            headers = PNG | {"Authorization": f"Bearer {secret}", KEY: "same"}
            answers.append(http.post("/encode", content=body(7), headers=headers))
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, None, "true", "true"]
        assert all("stored" in answer.headers["cache-status"] for answer in answers[:2])
        left = [int(answer.headers["ratelimit-remaining"]) for answer in answers]
        assert left[2] >= left[0], "an answer that is given again is not charged"


def test_a_key_gets_its_answer_again(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        headers = PNG | {KEY: "again"}
        calls = server.backend.calls
        first, again = (http.post("/encode", content=body(8), headers=headers) for _ in range(2))
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        assert "idempotent-replayed" not in first.headers
        assert server.backend.calls == calls + 1
        refused(http.post("/encode", content=body(9), headers=headers), 422, "idempotency-conflict")
        refused(http.post("/encode?size=32", content=body(8), headers=headers), 422, "idempotency-conflict")


def test_a_sample_with_a_key_is_drawn_once(server: Server) -> None:
    seeds = [
        httpx.post(f"{server.url}/generate?class=1", headers={KEY: key}, timeout=60).headers["x-omnitok-seed"]
        for key in ("draw", "draw", "another")
    ]
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_key_in_work_is_refused_and_free_after_a_failure(http: httpx.Client, caching: Server) -> None:
    gate = Gate(caching, ProblemError("gpu-memory", "The accelerator is out of memory."))
    with ThreadPoolExecutor(1) as pool:
        first = send(pool, caching, 10, **{KEY: "work"})
        eventually(lambda: caching.backend.waiting == 1)
        second = http.post("/encode", content=body(10), headers=PNG | {KEY: "work"})
        refused(second, 409, "idempotency-in-progress")
        assert second.headers["retry-after"] == "1"
        refused(
            http.post("/encode", content=body(11), headers=PNG | {KEY: "work"}),
            422,
            "idempotency-conflict",
        )
        gate.open()
        refused(first.result(), 503, "gpu-memory")
    caching.backend.stall = None
    answer = http.post("/encode", content=body(10), headers=PNG | {KEY: "work"})
    assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (200, None)


@pytest.mark.parametrize("keys", [[""], ["two words"], ["é"], ["x" * 256], ["a", "b"]])
def test_a_malformed_key_is_refused(server: Server, keys: list[str]) -> None:
    headers = [*PNG.items(), *((KEY, key.encode("latin-1")) for key in keys)]
    refused(httpx.post(f"{server.url}/encode", content=picture(), headers=headers, timeout=60), 400, "bad-header")


def test_where_the_setting_is_off_the_key_is_ignored() -> None:
    with Server(Settings(limits=LIMITS, idempotency_bytes=0)) as server:
        for seed in (1, 2):
            answer = httpx.post(f"{server.url}/encode", content=body(seed), headers=PNG | {KEY: "x"}, timeout=60)
            assert answer.status_code == 200


def test_a_multipart_body_is_known_by_its_parts(server: Server) -> None:
    def form(boundary: str, content: bytes) -> tuple[bytes, dict[str, str]]:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="media"\r\nContent-Type: image/png\r\n\r\n'
        return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            KEY: "parts",
        }

    first, again, other = (
        httpx.post(f"{server.url}/encode", content=content, headers=headers, timeout=60)
        for content, headers in (form("one", body(12)), form("another", body(12)), form("one", body(13)))
    )
    assert (first.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.content == first.content
    refused(other, 422, "idempotency-conflict")


def test_a_repeat_says_nothing_of_the_cache(http: httpx.Client) -> None:
    first, again = (http.post("/encode", content=body(15), headers=PNG | {KEY: "status"}) for _ in range(2))
    assert "stored" in first.headers["cache-status"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "cache-status" not in again.headers


def test_a_key_lives_as_long_as_its_work(http: httpx.Client, caching: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.replay.LEASE_SECONDS", 0.5)
    monkeypatch.setattr("service.api.replay.RENEW_SECONDS", 0.05)
    renewed = threading.Event()
    renew, times = LocalKeyedAnswers.renew, []

    async def noted(self: LocalKeyedAnswers, *arguments: Any) -> None:
        times.append(arguments)
        if len(times) == 3:
            renewed.set()
        await renew(self, *arguments)

    monkeypatch.setattr(LocalKeyedAnswers, "renew", noted)
    gate = Gate(caching)
    with ThreadPoolExecutor(1) as pool:
        first = send(pool, caching, 16, **{KEY: "long"})
        assert renewed.wait(120)
        gate.open()
        assert first.result().status_code == 200
