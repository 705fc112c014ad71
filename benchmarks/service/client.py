"""`python -m benchmarks.service.client`: CPU time that the client itself spends on a request.

The server is another process, which does nothing; the figures are CPU time of this one. A bare socket that sends and
receives the same bytes is the least that any client takes, and httpx alone is what the clients are built on.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated

import httpx
import numpy as np
import typer

from benchmarks.measure import describe_machine
from service.client import AsyncClient, Client
from service.client.calls import Call, media_call
from service.formats.codes import write_codes
from service.formats.media_types import MSGPACK
from service.formats.result import ClipSize, EncodeMeta, EncodeResult

SIDE = 256
CONCURRENCY = 8
WARM_UP = 50
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Answering(asyncio.Protocol):
    """A protocol that answers every request of a connection with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._received, self._wanted = answer, 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Count what came, and answer once it is a whole request."""
        if not self._wanted:
            head, _, body = data.partition(b"\r\n\r\n")
            found = LENGTH.search(head)
            self._wanted, self._received = int(found[1]) if found else 0, len(body)
        else:
            self._received += len(data)
        if self._received >= self._wanted:
            self._wanted = 0
            self._transport.write(self._answer)


def serve(answer: bytes, port: Connection) -> None:
    """Answer forever, after saying at which port."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Answering(answer), "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def microseconds(run: Callable[[int], None], requests: int) -> float:
    """Return CPU time a request of this process."""
    run(WARM_UP)
    started = time.process_time()
    run(requests)
    return 1e6 * (time.process_time() - started) / requests


def bare_socket(port: int, call: Call, answer_bytes: int) -> Callable[[int], None]:
    """Return what sends the bytes of a call and receives its answer."""
    assert isinstance(call.body, bytes)
    request = httpx.Client(base_url=f"http://127.0.0.1:{port}").build_request(**call.arguments(), content=call.body)
    lines = [f"POST {call.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]
    data = "\r\n".join(lines).encode() + request.content
    connection = socket.create_connection(("127.0.0.1", port))

    def run(requests: int) -> None:
        for _ in range(requests):
            connection.sendall(data)
            left = answer_bytes
            while left:
                left -= len(connection.recv(left))

    return run


async def _gather(client: httpx.AsyncClient, call: Call, requests: int) -> None:
    body, places = call.body, asyncio.Semaphore(CONCURRENCY)
    assert isinstance(body, bytes)

    async def one() -> None:
        async with places:
            (await client.post(call.path, content=body, headers=dict(call.headers))).raise_for_status()

    await asyncio.gather(*(one() for _ in range(requests)))


def bare_async_httpx(port: int, call: Call, answer_bytes: int) -> Callable[[int], None]:
    """Return what sends a call that is ready through httpx on an event loop, several at a time."""

    async def main(requests: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await _gather(client, call, requests)

    return lambda requests: asyncio.run(main(requests))


def bare_httpx(port: int, call: Call, answer_bytes: int) -> Callable[[int], None]:
    """Return what sends a call that is ready through httpx."""
    client, body = httpx.Client(base_url=f"http://127.0.0.1:{port}"), call.body
    assert isinstance(body, bytes)

    def run(requests: int) -> None:
        for _ in range(requests):
            client.post(call.path, content=body, headers=dict(call.headers)).raise_for_status()

    return run


def blocking(port: int, media: bytes | np.ndarray) -> Callable[[int], None]:
    """Return what encodes with `Client`."""
    client = Client(f"http://127.0.0.1:{port}")

    def run(requests: int) -> None:
        for _ in range(requests):
            client.encode(media)

    return run


def concurrent(port: int, media: bytes | np.ndarray) -> Callable[[int], None]:
    """Return what encodes with `AsyncClient`, several at a time."""

    async def main(requests: int) -> None:
        places = asyncio.Semaphore(CONCURRENCY)
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:

            async def one() -> None:
                async with places:
                    await client.encode(media)

            await asyncio.gather(*(one() for _ in range(requests)))

    return lambda requests: asyncio.run(main(requests))


def main(requests: Annotated[int, typer.Option(help="Of each measurement.")] = 1000) -> None:
    """Print CPU microseconds a request."""
    rng = np.random.default_rng(0)
    grid = (1, SIDE // 8, SIDE // 8)
    size = ClipSize(frames=1, height=SIDE, width=SIDE)
    meta = EncodeMeta(model="demo-vq", bundle="0" * 64, grid=list(grid), size=size)
    body = write_codes(EncodeResult(meta, rng.integers(0, 8192, grid, np.uint16)), MSGPACK)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {MSGPACK}\r\ncontent-length: {len(body)}\r\n\r\n"
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=serve, args=(head.encode() + body, theirs), daemon=True)
    process.start()
    port = ours.recv()
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    jpeg = b"\xff\xd8\xff" + rng.bytes(30_000)
    print(describe_machine())
    print(f"{'CPU microseconds a request':28}{'raw pixels':>12}{'30 kB JPEG':>12}")
    rows: dict[str, Callable[..., Callable[[int], None]]] = {
        "bare socket": bare_socket,
        "httpx alone": bare_httpx,
        f"httpx alone, {CONCURRENCY} at a time": bare_async_httpx,
    }
    for name, make in rows.items():
        calls = [media_call("/encode", media, {}, MSGPACK) for media in (pixels, jpeg)]
        _print(name, [microseconds(make(port, call, len(head) + len(body)), requests) for call in calls])
    for name, make in {"Client": blocking, f"AsyncClient, {CONCURRENCY} at a time": concurrent}.items():
        _print(name, [microseconds(make(port, media), requests) for media in (pixels, jpeg)])
    process.terminate()


def _print(name: str, figures: list[float]) -> None:
    print(f"{name:28}" + "".join(f"{figure:12.0f}" for figure in figures))


if __name__ == "__main__":
    typer.run(main)
