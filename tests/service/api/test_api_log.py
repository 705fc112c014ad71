"""The service's log: one line a request, with its times and counts, without its content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_media import clip, picture, scene
from api_server import TIMING, VQ, Server, problem
from waiting import eventually

from media.write import encode_video
from service.api.log import configure
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.records import Begin, Part, RecordWriter

PNG, MP4 = {"Content-Type": "image/png"}, {"Content-Type": "video/mp4"}
Lines = Callable[[], list[dict[str, object]]]


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


def test_head_is_counted_as_itself_without_bytes(http: httpx.Client, server: Server, lines: Lines) -> None:
    before = server.counts.requests["/limits", "HEAD", "200"]
    http.head("/limits", headers={"X-Request-ID": "head"})
    (line,) = lines_of("head", lines, 1)
    assert (line["method"], line["bytes_out"]) == ("HEAD", 0)
    assert server.counts.requests["/limits", "HEAD", "200"] == before + 1


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
