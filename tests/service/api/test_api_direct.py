"""Requests answered without FastAPI's dispatch get what FastAPI answers, and leave the same traces."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from api_media import picture, scene
from api_server import VAE, VQ, BlockBackend, Counts
from bad_inputs import CASES, LIMITS, Target

from service.api.app import create_app
from service.api.direct import DirectRoutes
from service.api.log import configure, flush
from service.formats.codes import write_codes
from service.formats.msgpack import pack, unpack
from service.formats.result import EncodeMeta, EncodeResult
from service.formats.tensors import pack_tensor
from service.keys import new_key, write_keys
from service.sandbox.pool import MediaPool
from service.settings import Settings

MSGPACK = "application/msgpack"
PIXELS = scene(5, 24, 40)
ARRAY = pack({"array": pack_tensor(PIXELS)})
TIMES = ("time", "milliseconds", "trace_id", "span_id")  # what differs from line to line
TIMED = ("application/x-npz", "application/json")  # whose length depends on the digits of times


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
    pixels(Origin="https://app.example"),
    pixels(Origin="https://other.example"),
    Send("/encode", b"", {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}, "OPTIONS"),
    pixels("/nowhere"),
]


@dataclass
class App:
    """One application, with what it counted and logged."""

    http: httpx.AsyncClient
    backend: BlockBackend
    counts: Counts
    log: Path


@asynccontextmanager
async def both(settings: Settings) -> AsyncIterator[tuple[App, App]]:
    """Yield the service with its direct routes, and with FastAPI alone."""
    pool = MediaPool(settings.limits, 1)
    await pool.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.stop)
        log = Path(stack.enter_context(TemporaryDirectory())) / "log"
        apps = []
        for direct in (True, False):
            backend, counts = BlockBackend(), Counts()
            app = create_app(backend, pool, settings, counts)
            if not direct:
                layers = app.user_middleware
                app.user_middleware = [layer for layer in layers if layer.cls is not DirectRoutes]
                assert len(app.user_middleware) == len(layers) - 1
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://omnitok")
            apps.append(App(await stack.enter_async_context(http), backend, counts, log))
        configure(log)
        stack.callback(configure)
        yield apps[0], apps[1]


async def ask(app: App, request: Send) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return all that must not depend on the way: the answer, and what was logged."""
    flush()
    before = app.log.stat().st_size
    answer = await app.http.request(request.method, request.path, headers=request.headers, content=request.body)
    flush()
    lines = [json.loads(line) for line in app.log.read_bytes()[before:].splitlines()]
    for line in lines:
        assert line.pop("request_id") == answer.headers["x-request-id"]
        for name in [name for name in line if name in TIMES or name.endswith("_ms")]:
            del line[name]
        if answer.headers.get("content-type") in TIMED or "retry-after" in answer.headers:
            del line["bytes_out"]
    return comparable(answer), lines


def comparable(answer: httpx.Response) -> dict[str, Any]:
    """Return all of an answer but times and ids that the service made."""
    headers = {name: re.sub(r"dur=[\d.]+", "dur=", value) for name, value in answer.headers.items()}
    headers.pop("traceresponse", None)  # refused headers have none
    request_id = headers["x-request-id"]
    made = re.fullmatch("[0-9a-f]{32}", request_id) is not None
    if "retry-after" in headers:
        headers.pop("content-length")
    body: Any = answer.content
    if headers.get("content-type") == MSGPACK:
        body = unpack(body, 2**20)
    elif headers.get("content-type", "").endswith("json"):
        body = json.loads(body) if body else None
    else:
        body = re.sub(rb'"\w+_ms": ?[\d.e-]+', b"", body)
    if isinstance(body, dict):
        body.pop("timing", None)
        body.pop("retry_after_seconds", None)
        if made:
            body = {name: value for name, value in body.items() if request_id not in str(value)}
    if made:
        headers["x-request-id"] = "made"
    if headers.get("content-type") in TIMED:
        headers.pop("content-length")  # of times with more digits or fewer
        body = None if isinstance(body, bytes) else body
    return {"status": answer.status_code, "headers": headers, "body": body}


async def test_every_answer_is_the_same(tmp_path: Path) -> None:
    target = Target(VQ, tmp_path / "decoy", 1)
    requests = list(GOOD)
    for case in CASES:
        body = case.body(target)
        decoded = re.match("image|video|multipart|$", case.headers.get("Content-Type", ""))  # in a process of its own
        if case.length is None and not decoded and case.path.startswith(("/encode", "/decode", "/reconstruct")):
            content = b"".join(body) if isinstance(body, list) else body or b""
            requests.append(Send(case.path.format(bundle=VQ.hash), content, case.headers, case.method))
    settings = Settings(limits=LIMITS, cors_origins=("https://app.example",))
    async with both(settings) as (direct, alone):
        for request in requests:
            assert await ask(direct, request) == await ask(alone, request), request
        assert direct.counts.requests == alone.counts.requests
        assert direct.counts.bytes_in == alone.counts.bytes_in
        assert not +direct.counts.flying
    assert len(requests) > 100


async def test_keys_are_asked_for_and_charged(tmp_path: Path) -> None:
    made = {scope: new_key(scope, [scope], 10) for scope in ("encode", "decode")}
    write_keys(tmp_path / "keys.json", [key for _, key in made.values()])
    settings = Settings(limits=LIMITS, keys=tmp_path / "keys.json", ingress_replicas=1)
    async with both(settings) as (direct, alone):
        seen = []
        for secret in ("nonsense", made["decode"][0], made["encode"][0]):
            request = pixels(Authorization=f"Bearer {secret}")
            answers = [await ask(app, request) for app in (direct, alone)]
            left = [int(answer["headers"].pop("ratelimit-remaining", 10)) for answer, _ in answers]
            for answer, _ in answers:  # a budget refills while the test runs
                answer["headers"].pop("ratelimit-reset", None)
            assert answers[0] == answers[1]
            seen.append((answers[0][0]["status"], max(left) < 10))
    assert seen == [(401, False), (403, False), (200, True)]


async def test_deadlines_and_admission_hold() -> None:
    async with both(Settings(limits=LIMITS, max_inflight_requests=1)) as (direct, alone):
        for app in (direct, alone):
            app.backend.stall = asyncio.Event().wait
        for seconds in ("0.05", "0.5", "5", "50"):  # on a busy machine the time may end before the work begins
            late = pixels(**{"X-Request-Timeout-Seconds": seconds})
            answers = [await ask(app, late) for app in (direct, alone)]
            assert answers[0] == answers[1]
            assert answers[0][0]["status"] == 504
            if direct.backend.cancelled and alone.backend.cancelled:
                break
        else:
            raise AssertionError("the work is not cancelled")
        refused = []
        for app in (direct, alone):
            going, holder = asyncio.Event(), asyncio.Event()
            app.backend.stall = partial(_hold, going, holder)
            first = asyncio.create_task(app.http.post("/encode", content=ARRAY, headers={"Content-Type": MSGPACK}))
            await going.wait()
            refused.append(await ask(app, pixels()))
            holder.set()
            assert (await first).status_code == 200
        assert refused[0] == refused[1]
        assert refused[0][0]["status"] == 503


async def _hold(going: asyncio.Event, holder: asyncio.Event) -> None:
    going.set()
    await holder.wait()
