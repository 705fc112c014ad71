"""Streams of both clients against the real HTTP tier, and against connections that break."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_server import VQ, Server

from media.write import encode_video
from service.client import AsyncClient, Client, ServiceError, Stream
from service.client.duplex import is_proxied
from service.formats.records import Begin, Part, RecordWriter, write_problem
from service.formats.result import EncodeMeta, EncodeResult

FRAMES = 60


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    path.write_bytes(encode_video((np.roll(picture, step, 1) for step in range(FRAMES)), "video/mp4", 25))
    return path


class Joined:
    """The arrays of a stream of either client, and its descriptions."""

    def __init__(self, arrays: list[np.ndarray], stream: Any) -> None:
        self.parts, self.begin, self.end = len(arrays), stream.begin, stream.end
        self.array = np.concatenate(arrays)


def sync(url: str, method: str, *arguments: Any, **options: Any) -> Joined:
    retries = options.pop("retries", 4)
    with Client(url, retries=retries, sleep=lambda _: None) as client:
        stream = getattr(client, method)(*arguments, **options)
        return Joined(list(stream), stream)


def concurrent(url: str, method: str, *arguments: Any, **options: Any) -> Joined:
    retries = options.pop("retries", 4)

    async def call() -> Joined:
        async with AsyncClient(url, retries=retries, sleep=lambda _: asyncio.sleep(0)) as client:
            stream = getattr(client, method)(*arguments, **options)
            return Joined([array async for array in stream], stream)

    return asyncio.run(call())


Join = Callable[..., Joined]


@pytest.fixture(params=[sync, concurrent], ids=["sync", "async"])
def join(request: pytest.FixtureRequest) -> Join:
    return request.param


def test_a_film_is_encoded_and_decoded_in_parts(join: Join, server: Server, film: Path) -> None:
    with Client(server.url) as client:
        whole = client.encode(film, size="16")
    codes = join(server.url, "encode_stream", film, size="16")
    np.testing.assert_array_equal(codes.array, whole.tokens)
    assert (codes.begin.bundle, codes.end.frames) == (VQ.hash, FRAMES)
    assert codes.end.meta.size == whole.meta.size
    pixels = join(server.url, "decode_stream", whole)
    assert pixels.array.shape == (FRAMES, 16, 16, 3)
    assert pixels.begin.fps == 25
    bare = join(server.url, "decode_stream", iter([whole.tokens[:3], whole.tokens[3:]]), bundle=VQ.hash, frames=FRAMES)
    np.testing.assert_array_equal(bare.array, pixels.array)


@pytest.mark.parametrize("form", ["bytes", "file", "pieces"])
def test_a_film_comes_from_anywhere(join: Join, server: Server, film: Path, form: str) -> None:
    data = film.read_bytes()
    with film.open("rb") as file:
        pieces = (data[start : start + 999] for start in range(0, len(data), 999))
        given = {"bytes": data, "file": file, "pieces": pieces}
        assert join(server.url, "encode_stream", given[form]).end.frames == FRAMES


async def test_the_pieces_of_a_film_may_come_of_the_same_loop(server: Server, film: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        data = film.read_bytes()
        for start in range(0, len(data), 5000):
            await asyncio.sleep(0)
            yield data[start : start + 5000]

    async with AsyncClient(server.url) as client:
        pixels = [part async for part in client.decode_stream(client.encode_stream(pieces(), size="16"))]
    assert sum(map(len, pixels)) == FRAMES


def test_one_stream_feeds_another(server: Server, film: Path) -> None:
    with Client(server.url) as client:
        pixels = client.decode_stream(client.encode_stream(film, size="16"))
        assert sum(len(part) for part in pixels) == FRAMES


def test_an_iteration_that_is_left_ends_the_call(server: Server, film: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield film.read_bytes()
        await asyncio.sleep(3600)

    with Client(server.url) as client:
        stream: Stream = client.encode_stream(endless())
        next(iter(stream))
        stream.close()


def test_a_refusal_is_raised_whatever_is_left_to_send(join: Join, server: Server, film: Path) -> None:
    with pytest.raises(ServiceError) as refused:
        join(server.url, "encode_stream", film, sampling="uniform", frames=3)
    assert refused.value.code == "invalid-options"
    with pytest.raises(ServiceError) as refused:
        join(server.url, "encode_stream", film.read_bytes()[:3000])
    assert refused.value.code == "corrupt-media"
    with pytest.raises(ServiceError, match="cannot be reached"):
        join("http://127.0.0.1:9", "encode_stream", film, retries=1)


def test_a_body_that_cannot_be_made_is_its_makers_failure(join: Join, server: Server, film: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield film.read_bytes()[:2000]
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        join(server.url, "encode_stream", broken())


class Broken(ThreadingHTTPServer):
    """Answers with what the script says, one entry an attempt, then breaks the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Broken

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack-seq\r\nConnection: close\r\n\r\n")
        self.wfile.write(self.server.script[len(self.server.bodies) - 1])
        self.close_connection = True


@pytest.fixture
def broken() -> Iterator[Broken]:
    with Broken() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def records(sizes: list[int]) -> list[bytes]:
    """Return a stream whose tokens count from 0, in parts of these lengths."""
    writer, starts = RecordWriter(), np.cumsum([0, *sizes])
    ranges = zip(starts, sizes, strict=False)
    parts = [np.arange(start, start + size, dtype=np.uint16).reshape(-1, 1, 1) for start, size in ranges]
    return [writer.begin(Begin(bundle=VQ.hash)), *(writer.part(Part("tokens", part)) for part in parts), writer.end(9)]


def test_what_broke_off_is_taken_up_where_it_was(join: Join, broken: Broken) -> None:
    passing = write_problem({"code": "not-ready", "status": 503, "detail": "A replica was lost."})
    whole, other = records([2, 3, 4]), records([4, 4, 1])
    broken.script = [b"".join(whole[:3]), whole[0], b"".join(other[:3]) + passing, b"".join(other)]
    film = os.urandom(100)
    joined = join(broken.url, "encode_stream", film, retries=2)
    np.testing.assert_array_equal(joined.array.ravel(), np.arange(9))
    assert broken.bodies == [film] * 4
    assert joined.end.frames == 9


def test_what_cannot_be_sent_again_is_not(join: Join, broken: Broken) -> None:
    broken.script = [b"".join(records([2, 3])[:2])] * 2
    with pytest.raises(ServiceError, match="broke off"):
        join(broken.url, "encode_stream", os.urandom(100), retries=0)
    lasting = write_problem({"code": "corrupt-media", "status": 422, "detail": "It is cut off."})
    broken.script = [b"", lasting]
    with pytest.raises(ServiceError, match="cut off") as failed:
        join(broken.url, "encode_stream", os.urandom(100))
    assert (failed.value.code, len(broken.bodies)) == ("corrupt-media", 2)


def test_results_without_metadata_need_the_hash_of_their_bundle(join: Join, server: Server) -> None:
    bare = EncodeResult(EncodeMeta(), np.zeros((3, 2, 2), np.uint16))
    assert join(server.url, "decode_stream", bare, bundle=VQ.hash).array.shape == (9, 16, 16, 3)
    with pytest.raises(ServiceError) as refused:
        join(server.url, "decode_stream", bare)
    assert refused.value.code == "invalid-options"


def test_a_connection_that_was_closed_while_idle_costs_no_wait(server: Server) -> None:
    """The listener answers one request a connection, and closes it without a word before the next."""
    answers: list[int] = []

    class Once(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            answers.append(1)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = True

    async def ask(url: str) -> None:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        async with AsyncClient(url, sleep=sleep) as client:
            for _ in range(3):
                assert await client.limits() == {}
        assert waits == []

    with ThreadingHTTPServer(("127.0.0.1", 0), Once) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        asyncio.run(ask(f"http://127.0.0.1:{running.server_port}"))
        running.shutdown()
        thread.join()
    assert len(answers) == 3


@pytest.mark.parametrize(
    ("environment", "proxied"),
    [
        ({}, False),
        ({"no_proxy": "localhost"}, False),
        ({"https_proxy": "http://proxy:3128"}, False),
        ({"http_proxy": "http://proxy:3128"}, True),
        ({"all_proxy": "http://proxy:3128"}, True),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost,service.example"}, False),
    ],
    ids=str,
)
def test_only_calls_that_go_through_a_proxy_take_the_transport_that_knows_proxies(
    environment: dict[str, str], proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_proxied("http://service.example:8000") == proxied
    assert not is_proxied("http://localhost:8000")
