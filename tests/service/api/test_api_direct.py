"""Requests answered without FastAPI's dispatch get what FastAPI answers: status, headers and body."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_media import picture, scene
from api_server import VAE, VQ, BlockBackend, Counts
from bad_inputs import CASES, LIMITS, Target

from service.api import app as application
from service.api.direct import DirectRoutes
from service.formats.codes import write_codes
from service.formats.msgpack import pack, unpack
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import pack_tensor
from service.sandbox.pool import MediaPool
from service.settings import Settings

MSGPACK = "application/msgpack"
PIXELS = scene(5, 24, 40)
ARRAY = pack({"array": pack_tensor(PIXELS)})


@dataclass(frozen=True)
class Send:
    """One good request."""

    path: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"


def pixels(path: str = "/encode", body: bytes = ARRAY, method: str = "POST", **headers: str) -> Send:
    return Send(path, body, {"Content-Type": MSGPACK, "Accept": MSGPACK} | headers, method)


TOKENS = BlockBackend()._tokens(BlockBackend()._latents(PIXELS))
CODES = write_codes(EncodeResult(EncodeMeta(bundle=VQ.hash), TOKENS), MSGPACK)
GOOD = [
    pixels(),
    pixels("/v1/encode"),
    pixels("/encode?output=both"),
    pixels(f"/encode?model={VAE.id}"),
    pixels("/encode/"),
    pixels("/encode", method="GET"),
    pixels("/encode", method="HEAD"),
    pixels("/encode", method="PUT"),
    pixels("/reconstruct", Accept="application/x-npy"),
    pixels("/decode", CODES, Accept="application/x-npy"),
    pixels("/decode", CODES, Accept="image/png"),
    *(pixels(Accept=accept) for accept in ("*/*", "application/json", "application/x-npz", "image/png", ";", "")),
    *(pixels(**{"X-Request-ID": name}) for name in ("mine", "not well-formed")),
    pixels(body=pack({"array": pack_tensor(PIXELS), "options": {"output": "latents"}})),
    pixels(body=pack({"media": picture(), "options": {"size": 16}})),
    pixels(body=picture(), **{"Content-Type": "image/png"}),
    pixels("/encode?size=16", picture()),
    pixels("/encode?nonsense=1"),
    pixels("/nowhere"),
]


@pytest.fixture
async def both() -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient, Counts, Counts]]:
    """The service with its direct routes, and with FastAPI alone."""
    settings = Settings(limits=LIMITS)
    pool = MediaPool(settings.limits, 1)
    await pool.start()
    counts = Counts(), Counts()
    direct = application.create_app(BlockBackend(), pool, settings, counts[0])
    alone = application.create_app(BlockBackend(), pool, settings, counts[1])
    alone.user_middleware = [layer for layer in alone.user_middleware if layer.cls is not DirectRoutes]
    assert len(alone.user_middleware) == len(direct.user_middleware) - 1
    base = "http://omnitok"
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(direct), base_url=base) as one,
        httpx.AsyncClient(transport=httpx.ASGITransport(alone), base_url=base) as other,
    ):
        yield one, other, *counts
    await pool.stop()


def comparable(answer: httpx.Response) -> dict[str, Any]:
    """Return all of an answer but times and ids that the service made."""
    headers = {name: re.sub(r"dur=[\d.]+", "dur=", value) for name, value in answer.headers.items()}
    request_id = headers["x-request-id"]
    made = re.fullmatch("[0-9a-f]{32}", request_id) is not None
    body: Any = answer.content
    if headers.get("content-type") == MSGPACK:
        body = unpack(body, 2**20)
    elif headers.get("content-type", "").endswith("json"):
        body = json.loads(body) if body else None
    else:
        body = re.sub(rb'"\w+_ms": ?[\d.e-]+', b"", body)
    if isinstance(body, dict):
        body.pop("timing", None)
        if made:
            body = {name: value for name, value in body.items() if request_id not in str(value)}
    if made:
        headers["x-request-id"] = "made"
    if headers.get("content-type") in ("application/x-npz", "application/json"):
        headers.pop("content-length")  # of times with more digits or fewer
        body = None if isinstance(body, bytes) else body
    return {"status": answer.status_code, "headers": headers, "body": body}


async def test_every_answer_is_the_same(
    both: tuple[httpx.AsyncClient, httpx.AsyncClient, Counts, Counts], tmp_path: Path
) -> None:
    one, other, counts, expected_counts = both
    target = Target(VQ, tmp_path / "decoy", 1)
    requests = list(GOOD)
    for case in CASES:
        body = case.body(target)
        decoded = re.match("image|video|multipart|$", case.headers.get("Content-Type", ""))  # in a process of its own
        if case.length is None and not decoded and case.path.startswith(("/encode", "/decode", "/reconstruct")):
            content = b"".join(body) if isinstance(body, list) else body or b""
            requests.append(Send(case.path.format(bundle=VQ.hash), content, case.headers, case.method))
    for request in requests:
        arguments: Any = {"method": request.method, "url": request.path, "headers": request.headers}
        answers = [await client.request(**arguments, content=request.body) for client in (one, other)]
        assert comparable(answers[0]) == comparable(answers[1]), request
    assert len(requests) > 100
    assert counts.requests == expected_counts.requests
    assert counts.bytes_in == expected_counts.bytes_in
    assert not +counts.flying
