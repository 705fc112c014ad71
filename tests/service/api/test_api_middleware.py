"""The layer around all routes, between a scripted application and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from api_server import Counts
from hypothesis import given
from hypothesis import strategies as st

from service.api.app import routers
from service.api.errors import ClientGoneError
from service.api.middleware import LONGEST_LABEL, RequestMiddleware, route_label, route_labels
from service.api.request_id import RequestId

PATHS = st.lists(st.sampled_from(["", "v1", "vae", "encode", "models", "x", "y" * 70]), max_size=6).map("/".join)


async def serve(app: Any, receive: Any = None, method: str = "POST") -> tuple[Counts, list[dict[str, Any]]]:
    """Send one request through the layer; return what was counted, and the messages of the answer."""
    counts, sent = Counts(), []
    scope = {"type": "http", "method": method, "path": "/encode", "headers": [], "query_string": b""}

    async def empty() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    layered: Any = RequestId(RequestMiddleware(app, counts, {"/encode"}))
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await layered(scope, receive or empty, send)
    return counts, sent


@pytest.mark.parametrize("end", [ClientGoneError(), asyncio.CancelledError()], ids=lambda end: type(end).__name__)
async def test_a_request_whose_client_left_is_counted_as_such(end: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise end

    counts, sent = await serve(app)
    assert (counts.codes, counts.flying["/encode"], sent) == (["499"], 0, [])


async def test_a_connection_that_fails_is_a_client_that_left() -> None:
    """Ray raises errors of its own where a server would report a disconnection."""

    class TaskCancelledError(Exception):
        pass

    async def receive() -> dict[str, Any]:
        raise TaskCancelledError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    counts, sent = await serve(app, receive)
    assert (counts.codes, counts.flying["/encode"], sent) == (["499"], 0, [])


async def test_a_head_ends_what_goes_on_for_a_get() -> None:
    """A proxy gives the connection to another request, which would wait until a stream of events has ended."""
    went_on = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal went_on
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        went_on = True

    counts, sent = await serve(app, method="HEAD")
    assert (counts.codes, counts.bytes_out, went_on) == (["200"], 0, False)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_a_head_that_fails_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    counts, sent = await serve(app, method="HEAD")
    assert (counts.codes, counts.bytes_out) == (["500"], 0)
    assert [message.get("body", b"") for message in sent] == [b"", b""]


async def test_an_answer_that_breaks_off_is_counted_as_it_began() -> None:
    """Its status has left already, so that no problem document can follow."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionResetError

    counts, sent = await serve(app)
    assert counts.codes == ["200"]
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_failure_before_the_answer_is_a_problem() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    counts, sent = await serve(app)
    assert counts.codes == ["500"]
    assert sent[0]["status"] == 500
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]


async def test_a_request_is_counted_before_it_is_not_in_flight_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that who sees nothing in flight sees every count."""
    seen: list[Any] = []
    monkeypatch.setattr(Counts, "observe", lambda self, request: seen.append(request.status))
    monkeypatch.setattr(Counts, "in_flight", lambda self, route, change: seen.append(change))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientGoneError

    await serve(app)
    assert seen == [1, 499, -1]


async def test_what_is_no_request_passes_uncounted() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    counts = Counts()
    nothing: Any = None
    layered: Any = RequestId(RequestMiddleware(app, counts, {"/encode"}))
    await layered({"type": "lifespan"}, nothing, nothing)
    assert (seen, counts.codes) == (["lifespan"], [])


@given(PATHS)
def test_the_label_of_a_path_is_the_longest_that_it_begins_with(path: str) -> None:
    labels = {"/encode", "/vae/encode", "/models", "/" + "y" * (LONGEST_LABEL - 1)}
    whole = f"/{path}".rstrip("/").removeprefix("/v1") + "/"
    expected = max((label for label in labels if whole.startswith(f"{label}/")), key=len, default="other")
    assert route_label(f"/{path}", labels) == expected


def test_a_path_of_slashes_is_looked_up_a_few_times() -> None:
    class Labels(set[str]):
        asked = 0

        def __contains__(self, label: object) -> bool:
            self.asked += 1
            return super().__contains__(label)

    labels = Labels({"/encode"})
    assert route_label("/" * 60_000 + "a", labels) == "other"
    assert labels.asked <= LONGEST_LABEL + 1
    for router in routers():
        assert all(len(label) <= LONGEST_LABEL for label in route_labels(router.routes))
