"""The layer that changes what Ray reads of a request, between a scripted server and a scripted application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.api.ray_headers import TIMEOUT_NAME, RayHeaders
from service.formats.media_types import MSGPACK_SEQUENCE


async def nothing(*_: Any) -> Any: ...


@pytest.mark.parametrize(("path", "name"), [("/encode", b"accept"), ("/v1/decode", b"content-type")])
def test_ray_leaves_connections_to_their_routes_and_bounds_no_stream(path: str, name: bytes) -> None:
    seen: list[dict[bytes, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]))

    wrapped = RayHeaders(app)
    sequence = MSGPACK_SEQUENCE.encode()
    for place, value in ((path, sequence), (path, b"image/png"), ("/generate", sequence)):
        headers = [(name, value), (b"x-request-timeout-seconds", b"5")]
        asyncio.run(wrapped({"type": "http", "path": place, "headers": headers}, nothing, nothing))
    assert seen[0][b"x-request-timeout-seconds"] == b"0"
    assert seen[0][b"x-request-disconnect-disabled"] == b"?1"
    bounded = {name: b"image/png", b"x-request-timeout-seconds": b"5"}
    assert seen[1] == bounded | {b"x-request-disconnect-disabled": b"?1"}
    assert seen[2] == {name: sequence, b"x-request-timeout-seconds": b"5"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_ray_can_read_its_headers(kind: str) -> None:
    names = [b"x-session-id", b"X_Session_Id".lower(), b"serve_multiplexed_model_id", b"x-request-disconnect-disabled"]
    scope = {"type": kind, "path": "/jobs", "headers": [(name, b"\xff") for name in (*names, b"a", TIMEOUT_NAME)]}
    await RayHeaders(nothing)(scope, nothing, nothing)
    assert scope["headers"] == [(b"a", b"\xff"), (TIMEOUT_NAME, b"\xc3\xbf")]


async def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await RayHeaders(app)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
