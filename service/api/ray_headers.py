"""Ray's own headers, for its HTTP servers, which bound whole requests and read bodies as fast as they come."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.deadline import HEADER as TIMEOUT
from service.formats.media_types import MSGPACK_SEQUENCE

DISCONNECT_DISABLED = "X-Request-Disconnect-Disabled"
# Headers of Ray's, with "-" or "_" between their words, that mean nothing here. It reads these and the bound of a
# request as UTF-8: what is none becomes a plain 500.
RAYS_OWN = frozenset({DISCONNECT_DISABLED.lower().encode(), b"x-session-id", b"serve-multiplexed-model-id"})
TIMEOUT_NAME = TIMEOUT.lower().encode()
# Routes whose bodies are large. They watch the connection themselves, by reading: a body that nobody reads is not sent,
# and its pieces do not pass through a task and a queue of Ray's.
WATCHED = {"/encode", "/decode", "/reconstruct"}
# The header that makes a request of a route a stream. Another route would take the bound of 0 for the caller's own.
STREAMS = {"/encode": "accept", "/decode": "content-type"}


class RayHeaders:
    """Middleware that has Ray leave connections to the routes that watch them, and streams to their own bounds.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        scope["headers"] = [
            (name, value.decode("latin-1").encode() if name == TIMEOUT_NAME else value)
            for name, value in scope.get("headers", ())  # a lifespan has none
            if name.replace(b"_", b"-") not in RAYS_OWN
        ]
        if scope["type"] == "http" and (path := scope["path"].removeprefix("/v1")) in WATCHED:
            headers = MutableHeaders(scope=scope)
            headers[DISCONNECT_DISABLED] = "?1"
            if path in STREAMS and MSGPACK_SEQUENCE in headers.get(STREAMS[path], "").lower():
                headers[TIMEOUT] = "0"  # none
        await self._app(scope, receive, send)
