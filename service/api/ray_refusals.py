"""Ray's own refusals, which are plain text: its Python proxy answers so while it knows of no replica."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import problem_response
from service.errors import ProblemError

RETRY_SECONDS = 1.0
RAYS_OWN = "/-/"  # what Ray and HAProxy ask each other
# status -> code and detail of the problem. The application itself never answers in plain text.
REFUSALS = {
    404: ("not-ready", "No replica takes requests now. Try again in a second."),
    408: ("deadline-exceeded", "No replica answered in time."),
    500: ("internal", "The replica was lost before it answered. Try again."),
    503: ("overloaded", "No replica had a place for this request. Try again in a second."),
}


class RayRefusals:
    """Middleware that turns refusals in plain text into problem documents that say when to come back.

    Args:
        app: what it wraps, Ray's HTTP server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        if scope["type"] != "http" or scope["path"].startswith(RAYS_OWN):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def answer(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] in REFUSALS:
                replaced = Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")
                if replaced:
                    code, detail = REFUSALS[message["status"]]
                    problem = ProblemError(code, detail, retry_after_seconds=RETRY_SECONDS)
                    request_id = Headers(scope=scope).get("x-request-id", "")
                    await problem_response(problem, request_id, close=False)(scope, receive, send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, answer)
