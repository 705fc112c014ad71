"""The event stream of `/generate`: its events, its errors, and the end of the work when the reader leaves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_media import clip
from api_server import Server
from bad_inputs import LIMITS
from PIL import Image
from waiting import SECONDS, eventually

from service.api.errors import ClientGoneError
from service.api.event_stream import Channel, EventStream, open_stream
from service.api.send import SLICE_BYTES
from service.errors import ProblemError
from service.settings import Settings

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def own() -> Iterator[tuple[Server, httpx.Client]]:
    """A server of this test's own, whose steps may be held up."""
    with Server(Settings(limits=LIMITS, generate_seconds=100)) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield server, client
        eventually(lambda: not any(server.counts.flying.values()))
        assert server.generators.running == 0


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and the data of the events in a stream, comments left out."""
    found = []
    for block in filter(None, text.split("\n\n")):
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_the_events_of_two_samples(http: httpx.Client) -> None:
    response = http.post("/generate?class=coinrun&n=2&seed=3", headers=EVENTS)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["x-omnitok-model"], response.headers["cache-control"]) == ("toy-lm", "no-store")
    found = events(response.text)
    names = [name for name, _ in found if name != "progress"]
    assert names == ["accepted", "started", "result", "result", "done"]
    by_name = dict(reversed(found))
    accepted = by_name["accepted"]
    assert (accepted["class_id"], accepted["seed"], accepted["samples"], accepted["size"]) == (3, 3, 2, [1, 32, 32])
    assert accepted["id"] == response.headers["x-request-id"]
    assert by_name["done"] == {"id": accepted["id"], "ok": True}
    results = [data for name, data in found if name == "result"]
    assert [result["index"] for result in results] == [0, 1]
    one = http.post("/generate?class=coinrun&seed=3")
    assert base64.b64decode(results[0]["pixels"]["data"]) == one.content


def test_results_come_in_the_forms_that_are_accepted(http: httpx.Client) -> None:
    accept = {"Accept": "text/event-stream, image/gif"}
    response = http.post("/generate?kind=video&class=0&frames=5&output=both", headers=accept)
    (result,) = (data for name, data in events(response.text) if name == "result")
    assert (result["pixels"]["media_type"], result["codes"]["media_type"]) == ("image/gif", "application/x-npz")
    decoded = http.post("/decode", content=base64.b64decode(result["codes"]["data"]), headers={"Accept": "image/gif"})
    assert decoded.content == base64.b64decode(result["pixels"]["data"])


@pytest.mark.parametrize(("query", "size"), [("class=0", (32, 32)), ("class=0&frames=9", (288, 32))])
def test_previews_are_small_pictures(own: tuple[Server, httpx.Client], query: str, size: tuple[int, int]) -> None:
    server, http = own
    steps, shown, text = 0, threading.Event(), ""

    async def stall() -> None:
        nonlocal steps
        steps += 1
        while steps > 2 and not shown.is_set():  # the first codes may be shown; their picture may be dropped at the end
            await asyncio.sleep(0.01)

    server.generators.stall = stall
    with http.stream("POST", f"/generate?{query}&preview=true", headers=EVENTS) as response:
        for piece in response.iter_text():
            text += piece
            if "event: preview" in text:
                shown.set()
    previews = [data for name, data in events(text) if name == "preview"]
    assert previews
    for preview in previews:
        with Image.open(io.BytesIO(base64.b64decode(preview["pixels"]["data"]))) as picture:
            assert picture.format == "JPEG"
            assert picture.size[1] == 32
    assert Image.open(io.BytesIO(base64.b64decode(previews[-1]["pixels"]["data"]))).size[0] <= size[0]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("class=none", 422, "unknown-class"),
        ("class=0&model=none", 404, "unknown-model"),
        ("class=0&model=toy-lost", 422, "tokenizer-not-served"),
        ("class=0&n=0", 422, "invalid-options"),
    ],
)
def test_what_is_refused_at_once_is_no_stream(http: httpx.Client, query: str, status: int, code: str) -> None:
    response = http.post(f"/generate?{query}", headers=EVENTS)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert response.json()["code"] == code


def test_a_failure_on_the_way_is_an_event(own: tuple[Server, httpx.Client]) -> None:
    server, http = own

    async def refuse() -> None:
        raise ProblemError("gpu-memory", "The accelerator is out of memory.")

    async def fail() -> None:
        raise RuntimeError("a secret of the implementation")

    for stall, code in ((refuse, "gpu-memory"), (fail, "internal")):
        server.generators.stall = stall
        response = http.post("/generate?class=0", headers=EVENTS)
        assert response.status_code == 200
        assert "secret" not in response.text
        *_, (name, problem), (last, done) = events(response.text)
        assert (name, last) == ("error", "done")
        assert (problem["code"], problem["request_id"], done["ok"]) == (code, response.headers["x-request-id"], False)


def test_the_deadline_is_an_event() -> None:
    with (
        Server(Settings(limits=LIMITS, generate_seconds=0.3)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]

        # On a busy machine the time may end before the stream or the work begins.
        def streamed() -> bool:
            response = http.post("/generate?class=0", headers=EVENTS)
            if response.status_code == 504:
                return False
            *_, (name, problem), _ = events(response.text)
            assert (name, problem["code"]) == ("error", "deadline-exceeded")
            return server.generators.cancelled > 0

        eventually(streamed)
        cancelled = server.generators.cancelled

        def ended() -> bool:
            assert http.post("/generate?class=0").json()["code"] == "deadline-exceeded"
            return server.generators.cancelled > cancelled

        eventually(ended)
        eventually(lambda: server.generators.running == 0)


@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
@pytest.mark.parametrize("query", ["class=0&n=3", "class=0&frames=9"])
def test_a_reader_that_leaves_frees_its_samples(own: tuple[Server, httpx.Client], accept: str, query: str) -> None:
    server, _ = own
    server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]
    samples = 3 if "n=3" in query else 1
    body = clip() if samples == 1 else b""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /generate?{query} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: server.generators.running == samples)
        if accept == "text/event-stream":
            assert connection.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: server.generators.cancelled == samples)
    eventually(lambda: server.counts.requests["/generate", "POST", "499"] == 1)


async def test_a_reader_that_is_slow_misses_what_may_be_dropped_and_nothing_else() -> None:
    channel = Channel()

    async def rendered(number: int) -> tuple[str, dict[str, Any]]:
        return "progress", {"done": number}

    channel.put("accepted", {})
    for number in range(10_000):
        channel.offer("progress", lambda number=number: rendered(number))
        channel.offer(number % 2, lambda: refused())
    channel.put("result", {"index": 0})
    seen = [await anext(reader := aiter(channel)), await anext(reader), await anext(reader)]
    assert seen == [("accepted", {}), ("result", {"index": 0}), ("progress", {"done": 9999})]
    channel.put("result", {"index": 1})
    channel.close()
    assert [event async for event in reader] == [("result", {"index": 1})]


async def refused() -> tuple[str, dict[str, Any]]:
    raise ProblemError("overloaded", "The media workers are busy.")


async def test_silence_is_broken_by_heartbeats() -> None:
    channel = Channel(heartbeat_seconds=0.01)
    reader = aiter(channel)
    assert [await anext(reader) for _ in range(3)] == [None] * 3
    channel.put("result", {})
    assert await anext(reader) == ("result", {})


async def test_a_reader_that_takes_nothing_counts_as_gone() -> None:
    channel, ended = Channel(), []

    async def work() -> None:
        try:
            channel.put("accepted", {})
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    stream = EventStream(channel, task, "id", {}, stall_seconds=0.01)
    stream.release = lambda: ended.append("body")
    with pytest.raises(ClientGoneError):
        await stream({"type": "http", "method": "POST", "headers": []}, receive, send)
    assert ended == ["work", "body"]


async def test_what_has_not_left_when_the_work_ends_is_the_last_message() -> None:
    channel, slow, ended = Channel(), asyncio.Event(), asyncio.Event()
    results = [{"index": index, "data": "x" * 3 * SLICE_BYTES} for index in range(2)]
    bodies, begun = list[dict[str, Any]](), asyncio.Event()

    async def work() -> None:
        for result in results:
            channel.put("result", result)
        await ended.wait()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message)
            begun.set()
            await slow.wait()

    working = asyncio.create_task(work())
    stream = EventStream(channel, working, "id", {}, SECONDS)
    sending = asyncio.create_task(stream({"type": "http", "method": "POST", "headers": []}, receive, send))
    await begun.wait()
    ended.set()
    await working
    slow.set()
    await sending
    assert [len(body["body"]) for body in bodies[:-1]] == [SLICE_BYTES]
    assert [body["more_body"] for body in bodies] == [True, False]
    found = events(b"".join(body["body"] for body in bodies).decode())
    assert found == [*(("result", result) for result in results), ("done", {"id": "id", "ok": True})]


async def test_a_caller_that_leaves_before_the_first_event_leaves_no_task() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    opening = asyncio.create_task(open_stream(Channel(), asyncio.create_task(work()), "id", dict, SECONDS))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_stream_holds_its_body_until_it_ends() -> None:
    body = clip()
    settings = Settings(limits=LIMITS, held_body_bytes=len(body) + 100, generate_seconds=100)
    headers = EVENTS | {"Content-Type": "video/mp4"}
    with Server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]
        with http.stream("POST", "/generate?class=0&frames=9", content=body, headers=headers) as response:
            assert response.status_code == 200
            refused = http.post("/generate?class=0&frames=9", content=body, headers=headers)
            assert refused.json()["code"] == "overloaded"
        eventually(lambda: server.generators.running == 0)
        server.generators.stall = None
        eventually(lambda: http.post("/generate?class=0&frames=9", content=body).status_code == 200)
