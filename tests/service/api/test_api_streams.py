"""Videos that are encoded, and codes that are decoded, while they arrive: order, limits, back-pressure and ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from api_server import VQ, BlockBackend, Server
from media_samples import workers
from waiting import SECONDS, eventually

from media.write import encode_video
from service.api.app import create_app
from service.api.drain import Gate
from service.errors import ProblemError
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.records import Begin, End, FailedStreamError, Part, RecordReader, RecordWriter
from service.sandbox.pool import MediaPool
from service.settings import Limits, Settings

VIDEO = {"Content-Type": "video/mp4", "Accept": MSGPACK_SEQUENCE}
CODES = {"Content-Type": MSGPACK_SEQUENCE}
SETTINGS = Settings(max_streams=2, stream_chunk_tokens=16)


@pytest.fixture(scope="module")
def streams() -> Iterator[Server]:
    with Server(SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def http(streams: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=streams.url, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def idle(streams: Server) -> Iterator[None]:
    """Let each test begin when the streams of the one before are over."""
    yield
    eventually(lambda: not any(streams.counts.flying.values()))


def film(frames: int, side: int = 64) -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return encode_video((np.roll(picture, step, 1) for step in range(frames)), "video/webm", 25)


def short(frames: int) -> bytes:
    picture = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    return encode_video((np.roll(picture, step, 0) for step in range(frames)), "video/mp4", 12)


def sequence(parts: int = 3, bundle: str = VQ.hash, frames: int | None = None, **given: Any) -> list[bytes]:
    writer = RecordWriter()
    tokens = np.arange(8, dtype=np.uint16).reshape(2, 2, 2)
    records = [
        writer.begin(Begin(bundle=bundle, **given)),
        *(writer.part(Part("tokens", tokens)) for _ in range(parts)),
    ]
    return [*records, writer.end(frames or 1 + 4 * (2 * parts - 1))]


def read(answer: bytes) -> tuple[Begin, list[np.ndarray], End]:
    reader = RecordReader()
    begin, *parts, end = reader.feed(answer)
    reader.close()
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    return begin, [part.array for part in parts if isinstance(part, Part)], end


class Exchange:
    """One request whose body is written, and whose answer is read, by hand."""

    def __init__(self, server: Server, path: str, headers: dict[str, str], receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", server.port))
        lines = [f"POST {path} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]
        self.socket.sendall("\r\n".join([*lines, *map(": ".join, headers.items()), "", ""]).encode())
        self._received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def read_until(self, word: bytes) -> bytes:
        while word not in self._received:
            data = self.socket.recv(2**16)
            assert data, self._received[-400:]
            self._received += data
        return self._received

    def close(self) -> None:
        self.socket.close()


@contextmanager
def exchange(server: Server, *arguments: Any, **options: Any) -> Iterator[Exchange]:
    opened = Exchange(server, *arguments, **options)
    try:
        yield opened
    finally:
        opened.close()


def test_tokens_come_before_the_video_has(streams: Server) -> None:
    data = film(160)
    with exchange(streams, "/encode", VIDEO | {"Content-Type": "video/webm"}) as one:
        one.send(data[: len(data) // 2])
        one.read_until(b"tokens")
        one.send(data[len(data) // 2 :])
        one.end()
        one.read_until(b"sha256")


def test_the_codes_and_pixels_are_those_of_the_whole(http: httpx.Client) -> None:
    data = short(23)
    whole = http.post("/encode", content=data, headers=VIDEO | {"Accept": "application/json"}).json()
    streamed = http.post("/encode", content=data, headers=VIDEO)
    assert (streamed.headers["x-omnitok-model"], streamed.headers["vary"]) == (VQ.id, "Accept")
    begin, parts, end = read(streamed.content)
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate(parts), whole["tokens"])
    assert (begin.height, begin.width, end.frames) == (whole["size"]["height"], whole["size"]["width"], 23)
    back, pixels, last = read(http.post("/decode", content=streamed.content, headers=CODES).content)
    assert np.concatenate(pixels).shape == (23, begin.height, begin.width, 3)
    assert (back.fps, last.frames) == (begin.fps, 23)


def test_a_reader_that_waits_stops_the_decoder(streams: Server) -> None:
    """Pixels are a hundred times as large as the tokens that they come of."""
    decoded = 0

    async def count() -> None:
        nonlocal decoded
        decoded += 1

    writer, tokens = RecordWriter(), np.zeros((4, 32, 32), np.uint16)
    streams.backend.stall = count
    try:
        with exchange(streams, "/decode", CODES, receive_buffer=4096) as one:
            one.send(writer.begin(Begin(bundle=VQ.hash)))
            sending = threading.Thread(target=_send_all, args=(one, [writer.part(Part("tokens", tokens))] * 400))
            sending.start()
            steps = [0]
            while decoded != steps[-1] or not decoded:  # it stands still
                steps.append(decoded)
                time.sleep(0.2)
            assert decoded < 400
            while decoded == steps[-1]:
                assert one.socket.recv(2**16)
    finally:
        streams.backend.stall = None
    sending.join()


def _send_all(one: Exchange, records: list[bytes]) -> None:
    with suppress(OSError):
        for record in records:
            one.send(record)


def test_a_client_that_leaves_frees_everything(streams: Server, http: httpx.Client) -> None:
    before, data = set(workers()), film(160)
    gone = streams.counts.requests["/encode", "POST", "499"]
    for _ in range(3):  # more than may be there at a time
        with exchange(streams, "/encode", VIDEO | {"Content-Type": "video/webm"}) as one:
            one.send(data[: len(data) // 2])
            one.read_until(b"tokens")
            assert len(set(workers()) - before) == 1
        eventually(lambda: not set(workers()) - before)
    eventually(lambda: streams.counts.requests["/encode", "POST", "499"] == gone + 3)
    eventually(lambda: streams.counts.flying["/encode"] == 0)
    assert http.post("/encode", content=short(5), headers=VIDEO).status_code == 200


def test_a_client_that_leaves_while_a_chunk_is_computed_is_noticed(streams: Server) -> None:
    cancelled, computing = streams.backend.cancelled, threading.Event()

    async def stall() -> None:
        computing.set()
        await asyncio.Event().wait()

    streams.backend.stall = stall
    try:
        with exchange(streams, "/encode", VIDEO) as one:
            one.send(short(9))
            one.end()
            assert computing.wait(SECONDS)
        eventually(lambda: streams.backend.cancelled == cancelled + 1)
    finally:
        streams.backend.stall = None


def test_streams_are_bounded_and_others_have_their_turn(streams: Server, http: httpx.Client) -> None:
    data = film(160)
    headers = VIDEO | {"Content-Type": "video/webm"}
    with exchange(streams, "/encode", headers) as one, exchange(streams, "/encode", headers) as two:
        for each in (one, two):
            each.send(data[: len(data) // 2])
            each.read_until(b"tokens")
        refused = http.post("/encode", content=short(5), headers=VIDEO)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        whole = http.post("/encode", content=short(5), headers=VIDEO | {"Accept": "application/json"})
        assert whole.status_code == 200


def test_a_stream_that_drips_gives_way_to_another(
    streams: Server, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.admission.SLOW_BODY_SECONDS", 0.05)
    data, webm = film(60), VIDEO | {"Content-Type": "video/webm"}
    with exchange(streams, "/encode", VIDEO) as one, exchange(streams, "/encode", webm) as two:
        one.send(short(5)[:1])
        eventually(lambda: sum(streams.counts.flying.values()) == 2)
        two.send(data[:40_000])
        two.read_until(b"tokens")
        eventually(lambda: http.post("/encode", content=short(5), headers=VIDEO).status_code == 200)
        assert b" 408 " in one.read_until(b"slow-body")
        two.send(data[40_000:])
        two.end()
        two.read_until(b"frames")


def test_streams_that_are_hardly_read_give_way_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.admission.SLOW_BODY_SECONDS", 0.05)
    writer, tokens = RecordWriter(), np.zeros((4, 32, 32), np.uint16)
    part = writer.part(Part("tokens", tokens))  # of 3 MB of pixels; a few fill every buffer on their way
    limits = Limits(stream_idle_seconds=600.0, body_bytes_per_second=1e9)
    with Server(SETTINGS.model_copy(update={"limits": limits})) as own, ExitStack() as stack:
        for _ in range(2):
            one = stack.enter_context(exchange(own, "/decode", CODES, receive_buffer=4096))
            one.send(writer.begin(Begin(bundle=VQ.hash)) + 20 * part)
        client = stack.enter_context(httpx.Client(base_url=own.url, timeout=60))
        eventually(lambda: sum(own.counts.flying.values()) == 2)
        eventually(lambda: client.post("/encode", content=short(5), headers=VIDEO).status_code == 200)
        eventually(lambda: own.counts.requests["/decode", "POST", "499"] >= 1)


def test_a_full_queue_holds_a_stream_up_and_does_not_end_it(streams: Server, http: httpx.Client) -> None:
    refusals = [ProblemError("overloaded", "The queue is full.", retry_after_seconds=0.01) for _ in range(3)]

    async def refuse() -> None:
        if refusals:
            raise refusals.pop()

    streams.backend.stall = refuse
    try:
        _, parts, _ = read(http.post("/encode", content=short(9), headers=VIDEO).content)
    finally:
        streams.backend.stall = None
    assert not refusals
    assert sum(map(len, parts)) == 3


@pytest.mark.parametrize("begun", [False, True])
def test_a_service_that_stops_ends_its_streams(tmp_path: Path, begun: bool) -> None:
    async def main() -> list[dict[str, Any]]:
        pool, sent = MediaPool(SETTINGS.limits, 1), []
        await pool.start()
        gate = Gate(create_app(BlockBackend(), pool, SETTINGS), tmp_path, 0.0)
        gate.start()
        film_pieces = [{"type": "http.request", "body": film(60)[: 40_000 if begun else 10], "more_body": True}]

        async def receive() -> dict[str, Any]:
            if film_pieces:
                return film_pieces.pop()
            if not begun:
                (tmp_path / "draining").touch()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)
            if b"tokens" in message.get("body", b""):
                (tmp_path / "draining").touch()

        headers = [(b"accept", MSGPACK_SEQUENCE.encode()), (b"content-type", b"video/webm")]
        scope = {"type": "http", "method": "POST", "path": "/encode", "query_string": b"", "headers": headers}
        await gate(scope | {"client": ("test", 1), "http_version": "1.1"}, receive, send)
        gate.stop()
        await pool.stop()
        return sent

    first, *others = asyncio.run(main())
    body = b"".join(message["body"] for message in others)
    if not begun:
        assert (first["status"], json.loads(body)["code"]) == (503, "draining")
        return
    with pytest.raises(FailedStreamError) as failed:
        list(RecordReader().feed(body))
    assert failed.value.document["code"] == "draining"


def test_a_side_that_is_silent_ends_the_stream() -> None:
    limits = Limits(stream_idle_seconds=0.5)
    with Server(SETTINGS.model_copy(update={"limits": limits})) as hasty:
        with exchange(hasty, "/encode", VIDEO | {"Content-Type": "video/webm"}) as one:
            one.send(film(60)[:40_000])
            one.read_until(b"slow-body")
        with exchange(hasty, "/decode", CODES, receive_buffer=4096) as one:
            writer, tokens = RecordWriter(), np.zeros((4, 32, 32), np.uint16)
            part = writer.part(Part("tokens", tokens))  # of 3 MB of pixels; a few fill every buffer on their way
            one.send(writer.begin(Begin(bundle=VQ.hash)) + 20 * part)
            eventually(lambda: hasty.counts.requests["/decode", "POST", "499"] == 1)


def test_a_stream_that_fails_midway_ends_its_connection(streams: Server) -> None:
    with exchange(streams, "/decode", CODES) as one:
        one.send(b"".join(sequence()[:2]))
        one.read_until(b"begin")
        one.send(b"\xc1")  # and no end of the body
        assert b"problem" in one.read_until(b"0\r\n\r\n")
        assert one.socket.recv(1) == b""


def test_what_fails_midway_is_the_last_record(http: httpx.Client) -> None:
    cut = film(200)
    answer = http.post("/encode", content=cut[: len(cut) // 2], headers=VIDEO | {"Content-Type": "video/webm"})
    assert answer.status_code == 200
    with pytest.raises(FailedStreamError) as failed:
        list(RecordReader().feed(answer.content))
    document = failed.value.document
    assert (document["code"], document["request_id"]) == ("corrupt-media", answer.headers["x-request-id"])
    again = http.post("/decode", content=answer.content, headers=CODES)
    with pytest.raises(FailedStreamError, match="has failed"):
        list(RecordReader().feed(again.content))


@pytest.mark.parametrize(
    ("path", "body", "headers", "code"),
    [
        ("/encode", b"", VIDEO, "malformed-body"),
        ("/encode", b"no video", VIDEO, "unsupported-media-type"),
        ("/encode", short(5), VIDEO | {"Content-Type": "image/png"}, "unsupported-media-type"),
        (
            "/encode",
            encode_video(np.zeros((3, 8, 8, 3), np.uint8), "image/gif", 5),
            {"Accept": MSGPACK_SEQUENCE},
            "unsupported-media-type",
        ),
        ("/encode?sampling=uniform&frames=3", short(5), VIDEO, "invalid-options"),
        ("/encode?output=both", short(5), VIDEO, "invalid-options"),
        ("/encode?size=huge", short(5), VIDEO, "invalid-options"),
        ("/encode?model=nobody", short(5), VIDEO, "unknown-model"),
        ("/encode", short(5), VIDEO | {"Content-Encoding": "br"}, "unsupported-encoding"),
        ("/decode", b"", CODES, "malformed-body"),
        ("/decode", b"\xc1", CODES, "malformed-body"),
        ("/decode", b"\x93\x01\x02\x03", CODES, "malformed-body"),
        ("/decode", b"".join(sequence()[1:]), CODES, "malformed-body"),
        ("/decode", b"".join(sequence(bundle="0" * 64)), CODES, "model-mismatch"),
        ("/decode", b"".join(sequence(height=99)), CODES, "bad-grid"),
        ("/decode", b"".join(sequence(parts=0, frames=1)), CODES, "missing-part"),
        ("/decode", b"".join(sequence()), CODES | {"Accept": "image/png"}, "not-acceptable"),
    ],
)
def test_what_is_wrong_at_once_is_refused_like_any_request(
    http: httpx.Client, path: str, body: bytes, headers: dict[str, str], code: str
) -> None:
    answer = http.post(path, content=body, headers=headers)
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code == answer.json()["status"] >= 400


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (sequence()[:-1], "broke off"),
        ([*sequence()[:2], sequence()[-1]], "came"),
        ([*sequence(), sequence()[1]], "follows the end"),
        (sequence(frames=99), "latent frames"),
        ([*sequence()[:2], RecordWriter().part(Part("tokens", np.zeros((1, 3, 3), np.uint16)))], "one grid"),
        ([*sequence()[:2], RecordWriter().part(Part("tokens", np.full((1, 2, 2), 512, np.uint16)))], "must be in"),
        ([*sequence()[:2], RecordWriter().part(Part("pixels", np.zeros((1, 2, 2, 3), np.uint8)))], "not pixels"),
    ],
)
def test_codes_that_do_not_fit_end_the_stream(http: httpx.Client, records: list[bytes], words: str) -> None:
    answer = http.post("/decode", content=b"".join(records), headers=CODES)
    assert answer.status_code == 200
    with pytest.raises(FailedStreamError, match=words):
        list(RecordReader().feed(answer.content))
