"""Deadlines that callers set, and refusals before a body is read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import httpx
import pytest
from api_media import picture
from api_server import Server
from bad_inputs import LIMITS
from waiting import eventually

from service.settings import Settings

PNG = {"Content-Type": "image/png"}
TIMEOUT, PRIORITY = "X-Request-Timeout-Seconds", "X-Request-Priority"


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A service of three places."""
    with Server(Settings(limits=LIMITS, max_inflight_requests=3, held_body_bytes=20_000)) as server:
        yield server


@pytest.fixture
def client(small: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small.url, timeout=60) as http:
        yield http
    small.backend.stall = None
    eventually(lambda: not any(small.counts.flying.values()))


def test_the_tokenizer_gets_the_time_that_is_left(small: Server, client: httpx.Client) -> None:
    assert client.post("/encode", content=picture(), headers=PNG | {TIMEOUT: "20"}).status_code == 200
    assert small.backend.seconds is not None
    assert 0 < small.backend.seconds < 20
    assert client.post("/encode", content=picture(), headers=PNG | {TIMEOUT: "999999"}).status_code == 200
    assert 20 < small.backend.seconds <= Settings().request_seconds


def test_a_request_ends_when_its_caller_stops_waiting(small: Server, client: httpx.Client) -> None:
    small.backend.stall = forever
    response = client.post("/encode", content=picture(), headers=PNG | {TIMEOUT: "0.4"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline-exceeded")
    assert response.json()["limit"] < 0.4, "before a proxy cuts the connection"


def test_only_the_service_s_own_deadline_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str | None]] = []
    with Server(Settings(limits=LIMITS, request_seconds=0.5)) as server, httpx.Client(base_url=server.url) as http:
        monkeypatch.setattr(server.counts, "observe", lambda request: seen.append((request.status, request.problem)))
        server.backend.stall = forever
        for header in ({}, {TIMEOUT: "9"}, {TIMEOUT: "0.3"}):
            assert http.post("/encode", content=picture(), headers=PNG | header).status_code == 504
        eventually(lambda: len(seen) == 3)
        server.backend.stall = None
    assert seen == [(504, "deadline-exceeded"), (504, "deadline-exceeded"), (499, "deadline-exceeded")]


def test_the_body_is_part_of_the_time(small: Server, client: httpx.Client) -> None:
    head = f"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n{TIMEOUT}: 0.3\r\n\r\n"
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(head.encode())
        assert b" 504 " in connection.recv(4096)


@pytest.mark.parametrize("value", ["", "0", "0.0", "-1", "nan", "inf", "1e3", "5 s", "٣", "1234567"])
def test_a_nonsense_timeout_is_refused(client: httpx.Client, value: str) -> None:
    response = client.post("/encode", content=picture(), headers=[*PNG.items(), (TIMEOUT, value.encode())])
    assert (response.status_code, response.json()["code"]) == (400, "bad-header")


def test_two_timeouts_are_refused(client: httpx.Client) -> None:
    response = client.post("/encode", content=picture(), headers=[*PNG.items(), (TIMEOUT, "5"), (TIMEOUT, "6")])
    assert response.json()["code"] == "bad-header"


@pytest.mark.parametrize("value", ["", "batch", "Interactive", "interactive, bulk"])
def test_a_nonsense_priority_is_refused(client: httpx.Client, value: str) -> None:
    response = client.post("/encode", content=picture(), headers=PNG | {PRIORITY: value})
    assert (response.status_code, response.json()["code"]) == (400, "bad-header")
    assert "interactive, bulk" in response.json()["detail"]


def test_the_tokenizer_is_told_whose_request_it_is_and_how_urgent(small: Server, client: httpx.Client) -> None:
    for headers, priority in ((PNG, "interactive"), (PNG | {PRIORITY: "bulk"}, "bulk")):
        assert client.post("/encode", content=picture(), headers=headers).status_code == 200
        flow = small.backend.flow
        assert flow is not None
        assert (flow.priority, str(flow.caller)[:10]) == (priority, "127.0.0.1:")


HEAD = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n"


def test_a_full_service_refuses_before_the_body_and_its_probes_still_pass(small: Server, client: httpx.Client) -> None:
    small.backend.stall = forever
    body = picture()
    whole = HEAD.replace(b": 9", f": {len(body)}".encode()) + body
    working = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(3)]
    for connection in working:
        connection.sendall(whole)
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        eventually(lambda: small.backend.waiting == 3)
        connection.sendall(HEAD)  # and nothing of the body
        answer = connection.recv(4096)
        assert b" 503 " in answer
        assert b"retry-after: " in answer.lower()
    assert client.get("/health/ready").status_code == 200
    for connection in working:
        connection.close()
    small.backend.stall = None
    eventually(lambda: client.post("/encode", content=body, headers=PNG).status_code == 200)


def test_generations_leave_a_place_to_other_work(small: Server, client: httpx.Client) -> None:
    small.generators.stall = forever
    generate = b"POST /generate?class=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    working = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(2)]
    for connection in working:
        connection.sendall(generate)
    eventually(lambda: small.generators.running == 2)
    assert client.post("/generate?class=0").json()["code"] == "overloaded"
    assert client.post("/encode", content=picture(), headers=PNG).status_code == 200
    job = client.post("/generate?class=0", headers={"Prefer": "respond-async"})
    assert job.status_code == 202
    assert client.delete(job.json()["links"]["self"]).json()["status"] == "cancelled"
    for connection in working:
        connection.close()
    small.generators.stall = None
    eventually(lambda: client.post("/generate?class=0").status_code == 200)


def test_slow_bodies_take_no_place_of_the_work(small: Server, client: httpx.Client) -> None:
    slow = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(4)]
    for connection in slow:
        connection.sendall(HEAD)
    eventually(lambda: small.counts.flying["/encode"] == 4)
    assert client.post("/encode", content=picture(), headers=PNG).status_code == 200
    for connection in slow:
        connection.close()


def test_of_too_many_bodies_the_slowest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.transfer.NEWCOMER_SECONDS", 0.0)
    with Server(Settings(limits=LIMITS, max_arriving_requests=3)) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for number, connection in enumerate(slow):
            connection.sendall(HEAD + bytes(2 * number))
            eventually(lambda count=number + 1: server.counts.flying["/encode"] == count)
        answer = httpx.post(f"{server.url}/encode", content=picture(), headers=PNG, timeout=60)
        assert answer.status_code == 200
        refusal = slow[0].recv(4096)
        assert b" 408 " in refusal
        assert b'"slow-body"' in refusal
        slow[2].sendall(bytes(5))
        assert b" 408 " not in slow[2].recv(4096)
        for connection in slow:
            connection.close()


def test_a_body_must_keep_its_pace(small: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.body.SLOW_BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(HEAD.replace(b": 9", b": 9000"))
        answer = b""
        connection.settimeout(0.05)
        while not answer:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
    assert b" 408 " in answer


def test_headers_are_bounded(client: httpx.Client) -> None:
    for headers in ({f"x-{number}": "y" for number in range(70)}, {"x": "y" * 17_000}):
        response = client.get("/version", headers=headers)
        assert (response.status_code, response.json()["code"]) == (431, "headers-too-large")
        assert response.json()["request_id"] == response.headers["x-request-id"]
    response = client.get(f"/version?{'y' * 17_000}")
    assert (response.status_code, response.json()["code"]) == (431, "headers-too-large"), "a query is as long"
    assert client.get("/version", headers={f"x-{number}": "y" * 200 for number in range(50)}).status_code == 200


def test_a_declared_length_is_refused_before_the_body(small: Server) -> None:
    head = "POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", small.port)) as holder,
        socket.create_connection(("127.0.0.1", small.port)) as late,
    ):
        holder.sendall(head.format(20_000).encode() + bytes(19_000))
        eventually(lambda: small.counts.flying["/encode"] == 1)
        late.sendall(head.format(5_000).encode())
        answer = late.recv(4096)
    assert b" 503 " in answer
