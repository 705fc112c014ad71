"""The outermost layer refuses the like of what was refused, with answers and counts as those of the application."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_media import scene
from api_server import Server
from starlette.types import Message, Receive, Scope, Send

from service.api import errors, shedding
from service.api.errors import problem_response
from service.api.request_id import HEADER
from service.api.shedding import Shedding, report_to
from service.errors import ProblemError
from service.finished_request import FinishedRequest
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack
from service.formats.tensors import pack_tensor
from service.settings import Settings

FULL = ProblemError("overloaded", "The queue is full.", 1, 2, [], 2.0)
LARGE = pack({"array": pack_tensor(scene(1, 256, 256))})


class Inner:
    """An application that refuses everything, once the body is there."""

    def __init__(self) -> None:
        self.calls, self.milliseconds = 0, "80"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        while (await receive()).get("more_body"):
            pass
        given = dict(scope["headers"]).get(b"x-request-id", b"first").decode()
        response = problem_response(FULL, given, close=False)
        response.headers[HEADER] = given
        response.headers["traceresponse"] = "of the first"
        if self.milliseconds:
            response.headers["X-Refuse-Alike"] = self.milliseconds
        await response(scope, receive, send)


class Shop:
    """The layer around `Inner`, under a clock."""

    def __init__(self) -> None:
        self.inner, self.now = Inner(), 0.0
        self.counted: list[FinishedRequest] = []
        report_to(self.counted.append, {"/encode", "/decode"})
        self.app = Shedding(self.inner, lambda: self.now)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://test")

    async def post(self, path: str = "/encode", size: int = 1000, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=b"x" * size, headers={"Content-Type": MSGPACK} | named)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(shedding, "_tally", None)
    return Shop()


async def test_the_like_of_a_refusal_gets_its_answer_under_its_own_id(shop: Shop) -> None:
    first = await shop.post(X_Request_ID="first")
    shop.now = 0.03
    again = await shop.post(X_Request_ID="mine")
    assert shop.inner.calls == 1
    assert again.status_code == 503
    assert again.json() == first.json() | {"request_id": "mine", "instance": "urn:request:mine"}
    changed = {HEADER.lower(): "mine", "x-refuse-alike": "50", "content-length": str(len(again.content))}
    expected = {name: value for name, value in first.headers.items() if name != "traceresponse"}
    assert dict(again.headers) == expected | changed
    shop.now = 0.08
    await shop.post()
    assert shop.inner.calls == 2, "the queue is asked again after that time"


async def test_ids_that_are_malformed_or_missing_are_made(shop: Shop) -> None:
    await shop.post()
    ids = [(await shop.post()).json()["request_id"], (await shop.post(X_Request_ID="a b")).json()["request_id"]]
    assert shop.inner.calls == 1
    assert len({*ids, "first", "a b"}) == 4


@pytest.mark.parametrize(
    "unlike",
    [
        {"path": "/decode"},
        {"size": 499},
        *({name: "x"} for name in ("Authorization", "X_Caller_Group", "X_Request_Priority", "Accept", "Prefer")),
        *({name: "x"} for name in ("Content_Type", "X_Request_Timeout_Seconds", "Idempotency_Key", "Origin")),
    ],
    ids=str,
)
async def test_what_is_not_alike_is_asked(shop: Shop, unlike: dict[str, Any]) -> None:
    await shop.post()
    await shop.post(**unlike)
    assert shop.inner.calls == 2


async def test_forms_are_alike_whatever_their_boundaries(shop: Shop) -> None:
    for boundary in ("a", "b"):
        await shop.post(Content_Type=f"multipart/form-data; boundary={boundary}")
    assert shop.inner.calls == 1


async def test_what_has_no_known_size_is_asked(shop: Shop) -> None:
    async def body() -> Any:
        yield b"x" * 1000

    await shop.post()
    await shop.client.post("/encode", content=body(), headers={"Content-Type": MSGPACK})
    await shop.client.get("/encode")
    await shop.client.post(
        "/encode", content=b"", headers=[("Content-Type", MSGPACK), ("Accept", "a/b"), ("Accept", "c/d")]
    )
    assert shop.inner.calls == 4


async def test_refusals_without_the_header_are_not_given_again(shop: Shop) -> None:
    shop.inner.milliseconds = ""
    await shop.post()
    await shop.post()
    assert shop.inner.calls == 2


async def test_a_proxy_without_the_application_sheds_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding, "_tally", None)
    await shop.post()
    await shop.post()
    assert shop.inner.calls == 2


async def test_each_is_counted_and_a_second_has_one_line(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    monkeypatch.setattr(shedding, "event", lambda level, name, fields: lines.put_nowait((name, fields)))
    monkeypatch.setattr(shedding, "LOG_SECONDS", 0.0)
    await shop.post()
    answers = await asyncio.gather(*(shop.post() for _ in range(5)))
    sent = len(answers[0].content)
    assert [request._replace(seconds=0) for request in shop.counted] == [
        FinishedRequest("/encode", "POST", 503, 0, 1000, sent, "overloaded", {})
    ] * 5
    assert all(request.seconds > 0 for request in shop.counted)
    requests = 0
    while requests < 5:
        name, fields = await lines.get()
        requests += (count := fields["requests"])
        assert name == "refused"
        assert fields == {
            "route": "/encode",
            "method": "POST",
            "status": 503,
            "problem": "overloaded",
            "requests": count,
            "bytes_in": 1000 * count,
            "bytes_out": sent * count,
        }


async def test_a_body_that_is_large_or_late_ends_its_connection(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.post()
    assert (await shop.post(size=2**18 + 1)).headers["connection"] == "close"
    monkeypatch.setattr(errors, "DISCARD_SECONDS", 0.0)

    sent: list[Message] = []

    async def late() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", MSGPACK.encode()), (b"content-length", b"1000"), (b"accept", b"*/*")]
    await shop.app({"type": "http", "method": "POST", "path": "/encode", "headers": headers}, late, send)
    assert (b"connection", b"close") in sent[0]["headers"]
    assert shop.inner.calls == 1
    assert [request.bytes_in for request in shop.counted] == [0, 0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("PAUSE_SHARE", "PAUSE_MAX_SECONDS"):
        monkeypatch.setattr(f"service.api.recent_refusals.{name}", 60.0)

    async def refuse() -> None:
        raise FULL

    with Server(Settings(), ray_layers=True) as server:
        server.backend.stall = refuse
        yield server


def test_a_connection_of_the_service_can_be_used_again(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    seen, sockets = set(), set()
    for _ in range(4):
        connection.request("POST", "/encode", LARGE, {"Content-Type": MSGPACK})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        assert (answer.status, answer.headers["Retry-After"], document["code"]) == (503, "2", "overloaded")
        assert answer.headers[HEADER] == document["request_id"]
        seen.add(document["request_id"])
        sockets.add(id(connection.sock))
    assert (server.backend.calls, len(seen), len(sockets)) == (1, 4, 1)
    assert server.counts.requests["/encode", "POST", "503"] >= 3, "the first one is counted when it is over"
    assert server.counts.bytes_in >= 3 * len(LARGE)
