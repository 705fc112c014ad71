"""Both clients against a server that misbehaves: what they repeat, what they do not, and the error in the end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_server import Server
from client_kinds import Connect
from waiting import eventually

from service.client import ServiceError
from service.errors import ProblemError
from service.formats.codes import write_codes
from service.formats.media_types import MSGPACK
from service.formats.result import EncodeMeta, EncodeResult

RESULT = EncodeResult(EncodeMeta(bundle="a" * 64), tokens=np.arange(8, dtype=np.int32).reshape(2, 2, 2))


SILENT = 1


@dataclass
class Reply:
    """One scripted answer; status 0 drops the connection, `SILENT` keeps it without a word."""

    status: int
    body: bytes = b"plain text from a proxy"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain"})


def good() -> Reply:
    return Reply(200, write_codes(RESULT, MSGPACK), {"Content-Type": MSGPACK})


def problem(slug: str, **headers: str) -> Reply:
    error = ProblemError(slug, "this is the detail")
    body = json.dumps(error.document("req-1")).encode()
    return Reply(error.status, body, {"Content-Type": "application/problem+json", **headers})


@dataclass
class Flaky:
    """A server that plays a script, one reply a request, and remembers what it was sent."""

    url: str
    script: list[Reply] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            record.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            record.headers.append(dict(self.headers))
            record.paths.append(self.path)
            reply = record.script.pop(0)
            if reply.status == 0:
                self.close_connection = True
                return
            if reply.status == SILENT:
                over.wait()
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None: ...

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    record = Flaky(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield record
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "passing",
    [
        Reply(0),
        Reply(408),
        Reply(429),
        Reply(500),
        Reply(502),
        Reply(503),
        Reply(504),
        problem("overloaded", **{"Retry-After": "1"}),
        problem("draining", **{"Retry-After": "2"}),
        problem("not-ready", **{"Retry-After": "5"}),
        problem("rate-limited", **{"Retry-After": "3"}),
        problem("idempotency-in-progress", **{"Retry-After": "1"}),
        Reply(429, headers={"Content-Type": "text/plain", "Retry-After": "7"}),
        Reply(503, headers={"Content-Type": "text/plain", "Retry-After": "30"}),
    ],
    ids=lambda reply: f"{reply.status}-{len(reply.headers)}",
)
def test_what_passes_is_tried_again_with_the_same_body(connect: Connect, flaky: Flaky, passing: Reply) -> None:
    flaky.script = [passing, passing, good()]
    waits: list[float] = []
    with connect(flaky.url, waits) as c:
        result = c.encode(b"\x89PNG\r\n\x1a\nrest", size="128")
    assert result.tokens is not None
    assert (result.tokens == RESULT.tokens).all()
    assert flaky.bodies == [b"\x89PNG\r\n\x1a\nrest"] * 3
    assert flaky.paths == ["/encode?size=128"] * 3
    assert {headers["Content-Type"] for headers in flaky.headers} == {"image/png"}
    asked = float(passing.headers.get("Retry-After", 0))
    assert len(waits) == 2
    assert all(asked + 0.125 * 2**n <= wait <= asked + 0.25 * 2**n for n, wait in enumerate(waits))


@pytest.mark.parametrize(
    "slug",
    [
        "corrupt-media",
        "unknown-model",
        "body-too-large",
        "slow-body",
        "internal",
        "deadline-exceeded",
        "gpu-memory",
        "overloaded",
        "rate-limited",
        "unauthorized",
        "forbidden",
    ],
)
def test_what_would_fail_again_is_not_repeated(connect: Connect, flaky: Flaky, slug: str) -> None:
    flaky.script = [problem(slug)]
    waits: list[float] = []
    with connect(flaky.url, waits) as c, pytest.raises(ServiceError) as caught:
        c.encode(b"whatever")
    assert waits == []
    assert caught.value.code == slug
    assert caught.value.status == ProblemError(slug, "").status
    assert caught.value.problem is not None
    assert "this is the detail" in str(caught.value)
    assert "req-1" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 501, 505])
def test_what_a_proxy_refuses_for_good_is_not_repeated(connect: Connect, flaky: Flaky, status: int) -> None:
    flaky.script = [Reply(status, headers={"Content-Type": "text/plain", "Retry-After": "1"})]
    waits: list[float] = []
    with connect(flaky.url, waits) as c, pytest.raises(ServiceError, match=str(status)):
        c.encode(b"whatever")
    assert waits == []


def test_a_call_outlasts_a_proxy_that_is_replaced(connect: Connect, flaky: Flaky) -> None:
    flaky.script = [*[Reply(0)] * 6, good()]
    waits: list[float] = []
    with connect(flaky.url, waits) as c:
        assert np.array_equal(c.encode(b"whatever").tokens, RESULT.tokens)
    assert sum(waits) > 5.5  # seconds without HAProxy, on a busy machine


@pytest.mark.parametrize("part", [0, 0.5])
def test_samples_whose_stream_breaks_off_are_asked_for_again(
    connect: Connect, flaky: Flaky, server: Server, part: float
) -> None:
    events = {"Content-Type": "text/event-stream"}
    whole = httpx.post(
        f"{server.url}/generate", json={"class": 1, "seed": 7}, headers={"Accept": events["Content-Type"]}
    )
    flaky.script = [
        Reply(200, whole.content[: int(part * len(whole.content))], events),
        Reply(200, whole.content, events),
    ]
    waits: list[float] = []
    with connect(flaky.url, waits) as c:
        assert [file[:4] for file in c.generate(1, seed=7, accept="image/png")] == [b"\x89PNG"]
    assert len(waits) == 1


@pytest.mark.parametrize("retries", [-1, -5])
def test_fewer_than_no_retries_are_refused(connect: Connect, retries: int) -> None:
    with pytest.raises(ValueError, match=f"retries={retries}"):
        connect("http://127.0.0.1:9", retries=retries)


def test_an_option_that_is_not_known_is_refused(connect: Connect) -> None:
    with pytest.raises(TypeError, match="retry"):
        connect("http://127.0.0.1:9", retry=1)


def test_an_answer_that_does_not_come_is_not_asked_for_again(connect: Connect, flaky: Flaky) -> None:
    """Another attempt would take as long, and the service may still work on the first."""
    flaky.script = [Reply(SILENT), good()]
    waits: list[float] = []
    with connect(flaky.url, waits, timeout=0.5) as c, pytest.raises(ServiceError, match="failed") as caught:
        c.encode(b"whatever")
    eventually(lambda: len(flaky.bodies) > 0)  # a busy server may begin to read when its client has gone
    assert (waits, len(flaky.bodies), caught.value.status) == ([], 1, None)


def test_a_job_that_is_submitted_again_keeps_its_name(connect: Connect, flaky: Flaky) -> None:
    job = {"id": "j", "status": "queued", "progress": {"done": 0, "total": 1}, "content": None, "error": None}
    made = Reply(202, json.dumps(job).encode(), {"Content-Type": "application/json"})
    flaky.script = [Reply(0), Reply(502), made, made]
    with connect(flaky.url) as c:
        assert [c.submit(0).id, c.submit(0).id] == ["j", "j"]
    first, *again, other = (headers["Idempotency-Key"] for headers in flaky.headers)
    assert again == [first, first]
    assert other != first


def test_attempts_are_bounded_and_the_last_problem_is_raised(connect: Connect, flaky: Flaky) -> None:
    flaky.script = [Reply(502), Reply(0), problem("overloaded", **{"Retry-After": "1"})]
    waits: list[float] = []
    with connect(flaky.url, waits, retries=2) as c, pytest.raises(ServiceError) as caught:
        c.encode(b"whatever")
    assert len(waits) == 2
    assert caught.value.code == "overloaded"


def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(connect: Connect, flaky: Flaky) -> None:
    flaky.script = [problem("overloaded", **{"Retry-After": "31"})]
    waits: list[float] = []
    with connect(flaky.url, waits) as c, pytest.raises(ServiceError):
        c.encode(b"whatever")
    assert waits == []


def test_waits_double_up_to_their_bound(connect: Connect, flaky: Flaky) -> None:
    flaky.script = [Reply(502)] * 11
    waits: list[float] = []
    with connect(flaky.url, waits, retries=10) as c, pytest.raises(ServiceError):
        c.encode(b"whatever")
    bounds = [min(0.25 * 2**n, 30.0) for n in range(10)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_a_file_is_sent_whole_and_anew_for_every_attempt(connect: Connect, flaky: Flaky, tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    path.write_bytes(b"GIF89a" + bytes(700_000))
    flaky.script = [Reply(0), Reply(503), good()]
    with connect(flaky.url) as c:
        c.encode(path)
    assert [len(body) for body in flaky.bodies] == [700_006] * 3
    assert {headers["Content-Length"] for headers in flaky.headers} == {"700006"}
    assert not any("Transfer-Encoding" in headers for headers in flaky.headers)


def test_no_server_is_one_clear_error(connect: Connect) -> None:
    waits: list[float] = []
    with connect("http://127.0.0.1:9", waits, retries=1) as c, pytest.raises(ServiceError) as caught:
        c.models()
    assert len(waits) == 1
    assert caught.value.status is None
    assert "127.0.0.1:9" in str(caught.value)
    with connect("http://127.0.0.1:9", waits) as c:
        assert c.ready() is False
    assert len(waits) == 1


@pytest.mark.parametrize(
    "broken", [Reply(503, b"{not json", {"Content-Type": "application/problem+json"}), Reply(418, b"", {})]
)
def test_an_answer_without_a_problem_document_still_names_its_status(
    connect: Connect, flaky: Flaky, broken: Reply
) -> None:
    flaky.script = [broken]
    with connect(flaky.url, [], retries=0) as c, pytest.raises(ServiceError, match=str(broken.status)) as caught:
        c.encode(b"whatever")
    assert caught.value.problem is None


def test_an_answer_without_a_result_is_a_problem(connect: Connect, flaky: Flaky) -> None:
    flaky.script = [Reply(200, b"<html>", {"Content-Type": "text/html"})]
    with connect(flaky.url) as c, pytest.raises(ProblemError):
        c.encode(b"whatever")


@pytest.mark.parametrize("package", ["torch", "ray", "fastapi"])
def test_the_client_imports_without(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; import service.client"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
