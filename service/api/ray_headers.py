"""Ray's own headers, for its HTTP servers, which bound whole requests and read bodies as fast as they come."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.deadline import HEADER as TIMEOUT
from service.formats.media_types import MSGPACK_SEQUENCE

DISCONNECT_DISABLED = "X-Request-Disconnect-Disabled"
# The header that makes a request of a route a stream. Another route would take the bound of 0 for the caller's own.
STREAMS = {"/encode": "accept", "/decode": "content-type"}


class UnboundedStreams:
    """Lifts Ray's bounds from streams, whose chunks have bounds of their own.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        if scope["type"] == "http":
            name = STREAMS.get(scope["path"].removeprefix("/v1"))
            if name is not None and MSGPACK_SEQUENCE in Headers(scope=scope).get(name, "").lower():
                headers = MutableHeaders(scope=scope)
                headers[TIMEOUT] = "0"  # none
                # The replica watches the connection itself, by reading: a body that nobody reads is not sent.
                headers[DISCONNECT_DISABLED] = "?1"
        await self._app(scope, receive, send)
