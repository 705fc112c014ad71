"""Routes about the service itself, and faults that the request did not cause."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from http.client import HTTPResponse

import httpx
import msgpack
import pytest
from api_media import clip, picture, scene
from api_server import VAE, VQ, Server, problem
from bad_inputs import LIMITS
from waiting import eventually

from service.api.routes import routers
from service.errors import PROBLEMS, ProblemError
from service.formats.tensors import pack_tensor
from service.metrics.definitions import WORK_ROUTES
from service.operations.options import DecodeOptions, EncodeOptions, ReconstructOptions
from service.settings import Settings

PNG, MP4 = {"Content-Type": "image/png"}, {"Content-Type": "video/mp4"}
Lines = Callable[[], list[dict[str, object]]]


async def forever() -> None:
    await asyncio.Event().wait()


def test_deadline_ends_the_work() -> None:
    with (
        Server(Settings(limits=LIMITS, request_seconds=0.5)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        server.backend.stall = forever
        array = msgpack.packb({"array": pack_tensor(scene(1, 8, 8))})

        def ended() -> bool:
            response = http.post("/encode", content=array, headers={"Content-Type": "application/msgpack"})
            assert problem(response, "deadline-exceeded")["limit"] == 0.5
            return server.backend.cancelled > 0

        eventually(ended)  # on a busy machine the time may end before the work begins


def test_bodies_together_are_bounded() -> None:
    body = picture()
    with (
        Server(Settings(limits=LIMITS, held_body_bytes=2 * len(body))) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert http.post("/encode", content=picture(height=256, width=256), headers=PNG).status_code == 200
        eventually(lambda: server.counts.flying["/encode"] == 0)  # or it would pass for the one that comes now
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            size = 2 * len(body)
            head = f"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + bytes(size - 1))
            eventually(lambda: server.counts.flying["/encode"] == 1)
            eventually(lambda: http.post("/encode", content=body, headers=PNG).status_code == 503)
            response = http.post("/encode", content=body, headers=PNG)
            assert problem(response, "overloaded")["limit"] == 2 * len(body)
        eventually(lambda: http.post("/encode", content=body, headers=PNG).status_code == 200)
        eventually(lambda: not any(server.counts.flying.values()))


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_body_that_is_refused_at_its_end_leaves_its_connection_open(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.errors.DISCARD_SECONDS", 1e6)  # of a wait for more, if there were one
    size = 1000
    body = bytes(size) if encoding == "identity" else gzip.compress(bytes(size))
    fields = f"Content-Type: image/png\r\nContent-Encoding: {encoding}\r\nContent-Length:"
    head = f"POST /encode HTTP/1.1\r\nHost: x\r\n{fields}"
    with (
        Server(Settings(limits=LIMITS, held_body_bytes=size + 1)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as waiting,
        socket.create_connection(("127.0.0.1", server.port)) as first,
    ):
        waiting.sendall(f"{head} {len(body)}\r\n\r\n".encode())
        eventually(lambda: server.counts.flying["/encode"] == 1)
        first.sendall(f"{head.replace(encoding, 'identity')} {size}\r\n\r\n".encode() + bytes(size - 1))
        url = f"{server.url}/encode"
        eventually(lambda: httpx.post(url, content=bytes(size), headers=PNG, timeout=60).status_code == 503)
        waiting.sendall(body)
        answer = HTTPResponse(waiting)
        answer.begin()
        assert json.loads(answer.read())["code"] == "overloaded"
        assert answer.headers["Connection"] != "close"


def test_client_that_leaves_ends_the_work(server: Server) -> None:
    arrived: list[bool] = []

    async def stall() -> None:
        arrived.append(True)
        await forever()

    before, cancelled = server.counts.requests["/encode", "POST", "499"], server.backend.cancelled
    server.backend.stall = stall
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = "POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png"
            connection.sendall(f"{head}\r\nContent-Length: {len(picture())}\r\n\r\n".encode() + picture())
            eventually(lambda: bool(arrived))
        eventually(lambda: server.counts.requests["/encode", "POST", "499"] == before + 1)
        assert server.backend.cancelled == cancelled + 1
    finally:
        server.backend.stall = None


def test_client_that_leaves_within_its_body_is_counted(server: Server) -> None:
    before = server.counts.requests["/decode", "POST", "499"]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = b"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\nContent-Length: 99\r\n\r\n"
        connection.sendall(head + b"some")
        eventually(lambda: server.counts.flying["/decode"] == 1)
    eventually(lambda: server.counts.requests["/decode", "POST", "499"] == before + 1)


def test_refusal_of_the_tokenizer_tier_comes_through(fresh: tuple[Server, httpx.Client]) -> None:
    server, http = fresh

    async def refuse() -> None:
        raise ProblemError("overloaded", "the queue is full", limit=8, actual=9, retry_after_seconds=2.2)

    server.backend.stall = refuse
    response = http.post("/reconstruct", content=picture(), headers=PNG)
    document = problem(response, "overloaded")
    assert response.headers["retry-after"] == "3"
    assert (document["limit"], document["actual"], document["retry_after_seconds"]) == (8, 9, 2.2)


def test_every_one_of_many_requests_gets_one_answer(server: Server, http: httpx.Client) -> None:
    def send(index: int) -> tuple[int, str | None]:
        response = http.post("/encode", content=[picture(), clip()][index % 2])
        return response.status_code, response.json()["code"] if response.status_code != 200 else None

    with ThreadPoolExecutor(40) as threads:
        answers = Counter(threads.map(send, range(120)))
    assert set(answers) <= {(200, None), (503, "overloaded")}
    assert answers[200, None] >= 10
    eventually(lambda: http.post("/encode", content=picture()).status_code == 200)  # after the pause of a refusal


def test_readiness_follows_the_tiers_and_liveness_does_not(fresh: tuple[Server, httpx.Client]) -> None:
    server, http = fresh
    assert http.get("/health/ready").json() == {"status": "ready"}
    server.backend.cards = []
    problem(http.get("/health/ready"), "not-ready")
    server.backend.cards = [VQ]
    assert http.get("/health/ready").status_code == 200
    asyncio.run_coroutine_threadsafe(server.media.stop(), server.loop).result()
    assert problem(http.get("/health/ready"), "not-ready")["retry_after_seconds"] == 1
    assert http.get("/health/live").json() == {"status": "live"}
    problem(http.post("/encode", content=picture(), headers=PNG), "draining")


def test_models_limits_and_version(http: httpx.Client) -> None:
    listed = http.get("/models").json()
    assert (listed["default"], listed["models"]) == (VQ.id, [VQ.as_dict(), VAE.as_dict()])
    assert VAE.as_dict().items() <= http.get(f"/models/{VAE.id}").json().items()
    limits = http.get("/limits").json()
    assert limits == asdict(LIMITS) | {"request_seconds": 60.0, "generate_seconds": 300.0, "job_seconds": 3600.0}
    assert type(limits["image_bytes"]) is int
    assert re.fullmatch(r"\d+\.\d+.*", http.get("/version").json()["version"])
    for slug, (status, title) in PROBLEMS.items():
        assert http.get(f"/problems/{slug}").json() == {"type": f"/problems/{slug}", "status": status, "title": title}


@pytest.mark.parametrize(
    "path",
    ["/models", f"/models/{VAE.id}", "/models/none", "/v1/limits", "/version", "/health/live", "/health/ready",
     "/problems/internal", "/docs", "/openapi.json", "/nowhere", "/encode"],
)  # fmt: skip
def test_head_answers_the_headers_of_get_without_its_body(http: httpx.Client, path: str) -> None:
    fixed = {"X-Request-ID": "same"}
    get, head = http.get(path, headers=fixed), http.head(path, headers=fixed)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for answer in (head, get):
        del answer.headers["traceresponse"]
    ours, theirs = ({k: v for k, v in answer.headers.items() if k != "date"} for answer in (head, get))
    assert ours == theirs
    assert int(head.headers["content-length"]) == len(get.content) > 0


def test_refused_method_lists_the_allowed_ones(http: httpx.Client) -> None:
    assert http.delete("/models").headers["allow"] == "GET, HEAD"
    assert http.head("/encode").headers["allow"] == "POST"


def test_version_prefix_reaches_the_same_routes(http: httpx.Client, server: Server) -> None:
    assert http.get("/v1/models").json() == http.get("/models").json()
    answer = http.post("/v1/encode", content=picture(), headers=PNG)
    assert http.post("/v1/decode", content=answer.content, headers={"Content-Type": "application/x-npz"}).is_success
    assert "/encode" in http.get("/openapi.json").json()["paths"]
    assert not any(path.startswith("/v1") for path in http.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize("given", ["a", "A-b.c_9", "x" * 128])
def test_request_id_is_kept(http: httpx.Client, given: str) -> None:
    answer = http.get("/health/live", headers={"X-Request-ID": given})
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "{}", "a,b", "ä"])
def test_odd_request_id_is_replaced(http: httpx.Client, given: str) -> None:
    answer = http.get("/health/live", headers={"X-Request-ID": given.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_two_request_ids_are_none(http: httpx.Client) -> None:
    answer = http.get("/health/live", headers=[("X-Request-ID", "one"), ("X-Request-ID", "two")])
    (chosen,) = answer.headers.get_list("x-request-id")
    assert re.fullmatch(r"[0-9a-f]{32}", chosen)


def test_connection_lives_after_an_answer_and_dies_with_an_unread_body(http: httpx.Client) -> None:
    assert "connection" not in http.post("/encode", content=picture(), headers=PNG).headers
    assert "connection" not in http.post("/encode?size=0", content=picture(), headers=PNG).headers
    assert (
        http.post("/encode", content=picture(), headers={"Content-Type": "text/plain"}).headers["connection"] == "close"
    )


def test_every_route_that_takes_work_has_its_own_series() -> None:
    posts = {route.path for router in routers() for route in router.routes if "POST" in getattr(route, "methods", ())}
    assert posts <= set(WORK_ROUTES)


def test_metrics_have_closed_labels(http: httpx.Client, server: Server) -> None:
    for path in ("/secret/1", "/secret/2", "/v1/models/x", "/problems/y", "/health/live/z"):
        http.get(path)
    before = server.counts.requests["/encode", "other", "405"]
    http.request("PROPFIND", "/encode")
    http.post("/encode", content=picture(), headers=PNG)
    eventually(lambda: not any(server.counts.flying.values()))
    routes = {"/encode", "/decode", "/reconstruct", "/generate", "/images/generations", "/jobs", "/videos",
              "/vae/encode", "/vae/decode",
              "/models", "/classes",
              "/limits", "/version", "/problems", "/docs", "/openapi.json", "/health/live", "/health/ready",
              "other"}  # fmt: skip
    assert {route for route, _, _ in server.counts.requests} <= routes
    assert set(WORK_ROUTES) <= routes
    assert server.counts.requests["/encode", "other", "405"] == before + 1
    assert server.counts.bytes_in >= len(picture())
    assert server.counts.bytes_out > 0


def test_docs_need_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(addresses) == 3
    for address in addresses:
        assert address.startswith("/docs/assets/")
        assert http.get(address).status_code == 200


def test_openapi_describes_options_and_bodies(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for path, options in (("/encode", EncodeOptions), ("/decode", DecodeOptions), ("/reconstruct", ReconstructOptions)):
        operation = paths[path]["post"]
        schemas = {item["name"]: item["schema"] for item in operation["parameters"] if item["in"] == "query"}
        assert set(schemas) == set(options.model_fields)
        assert path == "/decode" or schemas["size"]["type"] == "string"
        assert "multipart/form-data" in operation["requestBody"]["content"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_application_needs_neither_torch_nor_ray() -> None:
    code = "import sys, service.api.app; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
