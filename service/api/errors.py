"""Problem documents as responses, whatever raised them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive

from media.errors import MediaError
from service.api.content_length import content_length
from service.api.log import event
from service.errors import ProblemError
from service.formats.media_types import PROBLEM_TYPE

# A connection costs more than this. HAProxy sends what it has in one piece, so hardly anybody takes the time.
DISCARDED_BYTES, DISCARD_SECONDS = 2**18, 0.5
# Tells HAProxy that a replica is full (`haproxy-start`), and Shedding for how many milliseconds to refuse the like.
REFUSE_ALIKE = "X-Refuse-Alike"
BY_STATUS = {404: "not-found", 405: "method-not-allowed", 406: "not-acceptable"}


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody to answer."""


def problem_response(error: ProblemError, request_id: str, close: bool) -> Response:
    """Return the answer to a refused request.

    Args:
        error: the refusal.
        request_id: the id of the request.
        close: whether unread bytes of the body make the connection unusable.
    """
    headers = {"Vary": "Accept"}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 wants a challenge with every 401
    if error.code == "unsupported-encoding":
        headers["Accept-Encoding"] = "gzip"
    if close:
        headers["Connection"] = "close"
    body = json.dumps(error.document(request_id)).encode()
    return Response(body, status_code=error.status, headers=headers, media_type=PROBLEM_TYPE)


def problem_of(failure: BaseException, request_id: str, **fields: str) -> ProblemError:
    """Return the refusal that a failure of a request is; one that nobody foresaw goes to the log with these fields."""
    if isinstance(failure, MediaError):
        return ProblemError.of(failure)
    if isinstance(failure, ProblemError):
        return failure
    event(logging.ERROR, "internal", {"request_id": request_id} | fields, failure)
    return ProblemError("internal", f"The service failed. Its log has the cause under {request_id}.")


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer a `ProblemError` or a `MediaError`."""
    if isinstance(error, MediaError):
        error = ProblemError.of(error)
    assert isinstance(error, ProblemError)
    request.state.problem = error.code
    posted, state = request.method == "POST", request.state
    if posted and not state.body_read and error.code == "overloaded":
        await _discard_body(request)
    response = problem_response(error, state.request_id, close=posted and not state.body_read)
    if (milliseconds := getattr(request.state, "refuse_alike_ms", 0)) > 0:
        response.headers[REFUSE_ALIKE] = str(milliseconds)
    return response


async def _discard_body(request: Request) -> None:
    """Read the body of a refused request where it is small, and keep none of it: its connection can be used again."""
    declared = content_length(request.headers.get("content-length", ""))
    if declared is not None:
        await discard(declared, request.receive)


async def discard(size: int, receive: Receive) -> tuple[int, bool]:
    """Read a body where it is small, and keep none of it; return the bytes that came, and whether they are all."""
    read, more = 0, True
    if size <= DISCARDED_BYTES:
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while more and (message := await receive())["type"] == "http.request":
                    read += len(message.get("body", b""))
                    more = message.get("more_body", False)
    return read, not more


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code not in BY_STATUS:
        raise error
    detail, headers = "This path does not exist here.", {}
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
        detail = f"This path takes {headers['Allow']} alone."
    problem = ProblemError(BY_STATUS[error.status_code], f"{detail} /openapi.json lists all paths.")
    response = await on_problem(request, problem)
    response.headers.update(headers)
    return response


def _methods(request: Request) -> set[str]:
    """Return all methods of a path; Starlette names those of the first route that has it."""
    scope = {"type": "http", "method": request.method, "path": request.url.path.removeprefix("/v1")}
    methods: set[str] = set()
    for route in request.app.state.routes:
        if route.matches(scope)[0] is Match.PARTIAL:
            methods |= route.methods
    return methods | {"HEAD"} if "GET" in methods else methods
