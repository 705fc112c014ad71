"""The outermost layer under overload: it refuses the like of what was refused a moment ago, before Ray sees it.

A refusal that goes through Ray and the application costs a quarter of an answer, for which accepted requests wait.
HAProxy then lets no more of the like through than are there (`haproxy-start`), but hears of a refusal late: what came
in the meantime is here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.content_length import content_length
from service.api.errors import REFUSE_ALIKE, discard
from service.api.log import event
from service.api.middleware import TRACE_RESPONSE, route_label
from service.api.recent_refusals import LastRefusals
from service.api.request_id import HEADER, id_of
from service.finished_request import FinishedRequest

STATUS, PROBLEM = 503, "overloaded"
# The headers that say whether requests are alike, as in `haproxy-start`; the size of the body is compared separately.
KIND_HEADERS = (
    *(b"authorization", b"x-caller-group", b"x-request-priority", b"x-request-timeout-seconds"),
    *(b"content-type", b"accept", b"prefer"),
)
ID_HEADER, LENGTH_HEADER, PAUSE_HEADER = HEADER.lower().encode(), b"content-length", REFUSE_ALIKE.lower().encode()
# An answer to a key may be there already, and a browser needs headers of its own.
UNSHED_HEADERS = frozenset({b"idempotency-key", b"origin"})
READ_HEADERS = frozenset(KIND_HEADERS) | UNSHED_HEADERS | {ID_HEADER, LENGTH_HEADER}
OWN_HEADERS = frozenset({ID_HEADER, LENGTH_HEADER, TRACE_RESPONSE, PAUSE_HEADER, b"connection"})  # of one answer alone
ID_MARK = "{id}"
LOG_SECONDS = 1.0  # of refusals in a line of the log


class _Refusal(NamedTuple):
    headers: tuple[tuple[bytes, bytes], ...]
    body: tuple[bytes, ...]  # the id of the request goes between its parts


class _Tally:
    """The count of what this process sheds: of each request at once, and in the log once a second."""

    def __init__(self, observe: Callable[[FinishedRequest], None] | None, labels: Collection[str]) -> None:
        self._observe, self._labels = observe, labels
        self._sums: dict[str, list[int]] = {}  # by route: requests, bytes in, bytes out

    def count(self, path: str, seconds: float, read: int, sent: int) -> None:
        route = route_label(path, self._labels)
        if self._observe is not None:
            self._observe(FinishedRequest(route, "POST", STATUS, seconds, read, sent, PROBLEM, {}))
        if not self._sums:
            asyncio.get_running_loop().call_later(LOG_SECONDS, self.log)
        sums = self._sums.setdefault(route, [0, 0, 0])
        sums[0] += 1
        sums[1] += read
        sums[2] += sent

    def log(self) -> None:
        sums, self._sums = self._sums, {}
        for route, (requests, read, sent) in sums.items():
            fields = {"route": route, "method": "POST", "status": STATUS, "problem": PROBLEM, "requests": requests}
            event(logging.INFO, "refused", fields | {"bytes_in": read, "bytes_out": sent})


_tally: _Tally | None = None  # of the application in this process; a proxy of Ray's has none


def report_to(observe: Callable[[FinishedRequest], None] | None, labels: Collection[str]) -> None:
    """Choose where this process counts what it sheds. Without a choice it sheds nothing.

    Args:
        observe: takes each request; None counts nothing.
        labels: of the application's routes.
    """
    global _tally
    _tally = _Tally(observe, labels)


def log_shed() -> None:
    """Write the line of the log for what was shed since the last one; at the end of a process."""
    if _tally is not None:
        _tally.log()


class Shedding:
    """Middleware that gives a refusal again, for as long as its header says, to requests like the refused one.

    Each is counted. They have no spans, and share a line of the log each second.

    Args:
        app: what it wraps.
        clock: seconds.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._refusals: LastRefusals[_Refusal] = LastRefusals(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        headers = _headers(scope) if _tally is not None and scope["type"] == "http" else None
        if headers is None:
            await self._app(scope, receive, send)
            return
        kind, size = (scope["path"], *map(headers.get, KIND_HEADERS)), int(headers[LENGTH_HEADER])
        if (found := self._refusals.find(kind, size)) is not None:
            await self._refuse(found, self._refusals.left(kind), scope["path"], headers, receive, send)
            return
        start: Message | None = None

        async def answer(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message if message["status"] == STATUS else None
            elif start is not None and not message.get("more_body", False):
                self._learn(kind, size, start, message.get("body", b""))
            await send(message)

        await self._app(scope, receive, answer)

    def _learn(self, kind: tuple[Any, ...], size: int, start: Message, body: bytes) -> None:
        """Remember a refusal that is to be given again."""
        headers = {name.lower(): value for name, value in start.get("headers", ())}
        milliseconds = headers.get(PAUSE_HEADER)
        if milliseconds is None:
            return
        document = json.loads(body) | {"instance": f"urn:request:{ID_MARK}", "request_id": ID_MARK}
        parts = tuple(json.dumps(document).encode().split(ID_MARK.encode()))
        kept = tuple((name, value) for name, value in headers.items() if name not in OWN_HEADERS)
        self._refusals.keep(kind, size, _Refusal(kept, parts), int(milliseconds) / 1000)

    async def _refuse(
        self, found: _Refusal, left: float, path: str, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        started = time.perf_counter()
        request_id = id_of([headers.get(ID_HEADER, b"").decode("latin-1")]).encode()
        read, whole = await discard(int(headers[LENGTH_HEADER]), receive)
        body = request_id.join(found.body)
        answer_headers = [
            *found.headers,
            (ID_HEADER, request_id),
            (LENGTH_HEADER, b"%d" % len(body)),
            (PAUSE_HEADER, b"%d" % max(1, round(1000 * left))),
        ]
        if not whole:
            answer_headers.append((b"connection", b"close"))
        # First: what a caller has seen has been counted.
        assert _tally is not None
        _tally.count(path, time.perf_counter() - started, read, len(body))
        await send({"type": "http.response.start", "status": STATUS, "headers": answer_headers})
        await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[bytes, bytes] | None:
    """Return the headers that say what a request is like, or None for one whose like is not known."""
    if scope["method"] != "POST":
        return None
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in READ_HEADERS:
            if name in found or name in UNSHED_HEADERS:
                return None
            # Each multipart body has a boundary of its own.
            found[name] = value.partition(b";")[0] if name == b"content-type" else value
    return None if content_length(found.get(LENGTH_HEADER, b"").decode("latin-1")) is None else found
