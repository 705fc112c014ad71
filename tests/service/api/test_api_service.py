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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from http.client import HTTPResponse
from pathlib import Path

import httpx
import msgpack
import numpy as np
import pytest
from api_media import clip, picture, scene
from api_server import TIMING, VAE, VQ, Server
from bad_inputs import LIMITS
from waiting import eventually

from media.write import encode_video
from service.api.log import configure
from service.api.routes import routers
from service.errors import PROBLEMS, ProblemError
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.records import Begin, Part, RecordWriter
from service.formats.tensors import pack_tensor
from service.metrics.definitions import WORK_ROUTES
from service.operations.options import DecodeOptions, EncodeOptions, ReconstructOptions
from service.settings import Settings

PNG, MP4 = {"Content-Type": "image/png"}, {"Content-Type": "video/mp4"}
Lines = Callable[[], list[dict[str, object]]]


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def fresh() -> Iterator[tuple[Server, httpx.Client]]:
    """A server of this test's own, to be broken."""
    with Server(Settings(limits=LIMITS)) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield server, client
        eventually(lambda: not any(server.counts.flying.values()))


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    """The service's log, parsed."""
    file = tmp_path / "log"
    configure(file, "ingress-1")
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()]
    configure()


def lines_of(request_id: str, lines: Lines, count: int) -> list[dict[str, object]]:
    """Wait for the log lines of one request; those of an earlier test's may still be on their way."""
    eventually(lambda: [line["request_id"] for line in lines()].count(request_id) == count)
    return [line for line in lines() if line["request_id"] == request_id]


def problem(response: httpx.Response, slug: str) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert (response.status_code, response.json()["code"]) == (PROBLEMS[slug][0], slug)
    return response.json()


def test_failure_of_ours_is_told_by_its_id_only(fresh: tuple[Server, httpx.Client], lines: Lines) -> None:
    server, http = fresh

    async def fail() -> None:
        raise RuntimeError("a secret of the implementation")

    server.backend.stall = fail
    response = http.post("/encode", content=picture(), headers=PNG | {"X-Request-ID": "abc-1"})
    document = problem(response, "internal")
    assert document["request_id"] == response.headers["x-request-id"] == "abc-1"
    assert "secret" not in response.text
    failure, request = lines_of("abc-1", lines, 2)  # a request's own line follows its answer
    assert "a secret of the implementation" in str(failure["traceback"])
    assert (request["status"], request["problem"]) == (500, "internal")
    server.backend.stall = None
    assert http.post("/encode", content=picture(), headers=PNG).status_code == 200


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


def test_head_is_counted_as_itself_without_bytes(http: httpx.Client, server: Server, lines: Lines) -> None:
    before = server.counts.requests["/limits", "HEAD", "200"]
    http.head("/limits", headers={"X-Request-ID": "head"})
    (line,) = lines_of("head", lines, 1)
    assert (line["method"], line["bytes_out"]) == ("HEAD", 0)
    assert server.counts.requests["/limits", "HEAD", "200"] == before + 1


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


def test_one_log_line_a_request_without_its_content(http: httpx.Client, server: Server, lines: Lines) -> None:
    files = {"media": ("holiday-in-rome.png", picture(), "image/png")}
    http.post("/encode?size=32", files=files, headers={"X-Request-ID": "upload"})
    (line,) = lines_of("upload", lines, 1)
    assert set(line) == {
        "time", "level", "event", "replica", "request_id", "trace_id", "span_id", "route", "method", "status", "model",
        "frames", "positions", "batch", "decode_ms", "queue_ms", "compute_ms", "render_ms", "milliseconds", "bytes_in",
        "bytes_out",
    }  # fmt: skip
    assert (line["route"], line["method"], line["status"], line["model"]) == ("/encode", "POST", 200, VQ.id)
    assert (line["replica"], line["frames"], line["positions"], line["batch"]) == ("ingress-1", 1, 16, 1)
    assert (line["queue_ms"], line["compute_ms"]) == (TIMING.queue_ms, TIMING.compute_ms)
    assert int(str(line["bytes_in"])) > len(picture())
    assert "rome" not in json.dumps(line)


def test_the_line_of_a_stream_has_its_times_too(http: httpx.Client, server: Server, lines: Lines) -> None:
    headers = {"X-Request-ID": "stream", "Accept": "text/event-stream"}
    assert http.post("/generate?class=coinrun", headers=headers).status_code == 200
    (line,) = lines_of("stream", lines, 1)
    assert {"replica", "model", "frames", "positions", "queue_ms", "compute_ms", "milliseconds"} <= set(line)


@pytest.mark.parametrize(
    ("path", "headers", "body", "frames"),
    [
        ("/generate?class=1&frames=9", PNG, picture(), 9),
        ("/generate?class=1&frames=9&output=tokens", PNG, picture(), 9),
        ("/generate?class=1&frames=9&n=2", PNG, picture(), 18),
        ("/generate?class=1&frames=17", PNG, picture(), 17),  # in two windows
        ("/generate?class=1&frames=9&preview=true", PNG | {"Accept": "text/event-stream"}, picture(), 9),
        ("/v1/images/generations", {}, b'{"prompt": "coinrun", "n": 2}', 2),
        ("/encode", MP4, clip(7), 7),
        ("/encode", MP4 | {"Accept": MSGPACK_SEQUENCE}, encode_video(scene(7, 24, 40), "video/mp4", 25), 7),
        ("/reconstruct", MP4, clip(7), 7),
    ],
)
def test_the_line_has_the_frames_of_the_request_alone(
    http: httpx.Client, lines: Lines, path: str, headers: dict[str, str], body: bytes, frames: int
) -> None:
    answer = http.post(path, content=body, headers={"Content-Type": "application/json", "X-Request-ID": "x"} | headers)
    assert answer.status_code == 200, answer.text
    (line,) = lines_of("x", lines, 1)
    assert line["frames"] == frames


@pytest.mark.parametrize("frames", [6, 9])  # as 9 with their padding, and as they are
def test_the_line_of_a_decoded_stream_has_its_frames(http: httpx.Client, lines: Lines, frames: int) -> None:
    writer, tokens = RecordWriter(), np.zeros((3, 2, 2), np.uint16)
    records = writer.begin(Begin(bundle=VQ.hash)), writer.part(Part("tokens", tokens)), writer.end(frames)
    headers = {"Content-Type": MSGPACK_SEQUENCE, "X-Request-ID": "stream"}
    assert http.post("/decode", content=b"".join(records), headers=headers).status_code == 200
    (line,) = lines_of("stream", lines, 1)
    assert line["frames"] == frames


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
