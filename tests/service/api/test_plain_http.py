"""WebSockets, bodies of a GET and ranges of files: HTTP allows them, and no route asks for them."""

from __future__ import annotations

import json
import socket
from http.client import HTTPResponse

import httpx
import pytest
from api_server import Server

ASSET = "/static/api.js"


def answer_of(server: Server, head: bytes) -> tuple[HTTPResponse, bytes, bool]:
    """Return an answer, its body, and whether the connection ends with it, whatever else is to come."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + b"\r\nHost: x\r\n\r\n")
        answer = HTTPResponse(connection, method=head.split()[0].decode())
        answer.begin()
        body = answer.read()
        return answer, body, answer.getheader("Connection") == "close" and not connection.recv(1)


def test_a_websocket_gets_a_problem_document(server: Server) -> None:
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    answer, body, _ = answer_of(server, b"GET /jobs HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + key)
    assert (answer.status, json.loads(body)["code"]) == (400, "bad-header")
    assert answer.getheader("X-Request-ID") == json.loads(body)["request_id"]


@pytest.mark.parametrize(
    "line", [b"GET /limits", b"HEAD /limits", b"DELETE /jobs/x", b"OPTIONS /encode", b"PUT /nowhere"]
)
@pytest.mark.parametrize("header", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_a_body_that_nobody_reads_ends_the_connection(server: Server, line: bytes, header: bytes) -> None:
    """Its sender could keep it for ever, a byte at a time."""
    _, _, ended = answer_of(server, line + b" HTTP/1.1\r\n" + header)
    assert ended


def test_an_empty_body_does_not(http: httpx.Client) -> None:
    assert "connection" not in http.request("DELETE", "/jobs/x", headers={"Content-Length": "0"}).headers


@pytest.mark.parametrize("wanted", ["bytes=0-3", "bytes=4-", "bytes=4-4", "bytes=4-999999999999"])
@pytest.mark.parametrize("path", [ASSET, "/docs/assets/swagger-ui.css"])
def test_a_part_of_a_file(http: httpx.Client, path: str, wanted: str) -> None:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    got = http.get(path, headers={"Range": wanted})
    assert (got.status_code, got.content) == (206, http.get(path).content[int(first) : int(last or 10**9) + 1])


@pytest.mark.parametrize(
    "wanted", ["bytes=abc", "bytes=5-1", "bytes=99999999-", "items=0-1", "bytes=-0", "bytes=0-1,4-5"]
)
@pytest.mark.parametrize("path", [ASSET, "/docs/assets/swagger-ui.css", "/"])
def test_other_ranges_bring_the_whole_file(http: httpx.Client, path: str, wanted: str) -> None:
    got = http.get(path, headers={"Range": wanted})
    assert (got.status_code, got.content) == (200, http.get(path).content)
