"""The first layer: one id for each request, the same in the request, in the answer and in the log; bounded headers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import problem_response
from service.errors import ProblemError

HEADER = "X-Request-ID"
MAX_HEADERS, MAX_HEADER_BYTES = 64, 2**14
ADDED_HEADERS = 2  # by HAProxy, to those that it has counted
BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Middleware that keeps the caller's id if it is well-formed and the only one, else makes one, and answers with it.

    Requests with too many headers or too long a path are refused: HAProxy does so too, Ray's own proxy does not. So are
    WebSockets, which HAProxy makes plain requests. A body of another method than POST is not read: the connection ends.

    Args:
        app: what it wraps; it finds the id among the request's headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist(HEADER)
        request_id = id_of(given)
        headers = scope["headers"]
        size = len(scope["path"]) + len(scope["query_string"])
        size += sum([len(name) + len(value) for name, value in headers])
        if len(headers) > MAX_HEADERS + ADDED_HEADERS or size > MAX_HEADER_BYTES:
            detail = (
                f"A request may have {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes, its path and query among them; "
                f"this one has {len(headers)} of {size}. Send fewer."
            )
            refusal = ProblemError("headers-too-large", detail, MAX_HEADER_BYTES, size)
        elif scope["type"] == "websocket":
            refusal = ProblemError("bad-header", "This service speaks HTTP alone. Send the request without Upgrade.")
        else:
            refusal = None
        if refusal is not None:
            response = problem_response(refusal, request_id, close=True)
            response.headers[HEADER] = request_id
            await response(scope, receive, send)
            return
        if given != [request_id]:
            MutableHeaders(scope=scope)[HEADER] = request_id

        unread = scope["method"] != "POST" and any(name in BODY_HEADERS and value != b"0" for name, value in headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer_headers = MutableHeaders(scope=message)
                answer_headers[HEADER] = request_id
                if unread:  # or a slow one would keep the connection for ever
                    answer_headers["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, answer)


def id_of(given: Sequence[str]) -> str:
    """Return the caller's id if it is well-formed and the only one, a new one otherwise."""
    return given[0] if len(given) == 1 and WELL_FORMED.fullmatch(given[0]) else uuid.uuid4().hex
