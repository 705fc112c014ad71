"""Clients that send next to nothing, by the hundred, and what others see meanwhile.

python -m benchmarks.service.slow_clients --port 8000
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path

PICTURE = Path(__file__).parents[2] / "docs/samples/igloo.png"
PATIENCE_SECONDS = 90.0
UPLOAD = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
ATTACKS = {
    "bodies of 5000 bytes": (600, UPLOAD + b"Content-Length: 5000\r\n\r\n\x89PNG"),
    "bodies of 1 MB": (1400, UPLOAD + b"Content-Length: 1000000\r\n\r\n\x89PNG"),
    "bodies in chunks": (1400, UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\x89PNG\r\n"),
    "half headers": (200, b"POST /encode HTTP/1.1\r\nHost: x\r\nX-A: "),
    "idle connections": (500, b""),
    "headers of 2 MB": (20, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 2_000_000),
    "headers of 100,000 lines": (20, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000),
}


class Slow:
    """One connection of an attack: how it ended, and after how long."""

    def __init__(self, port: int, data: bytes) -> None:
        self._port, self._data = port, data
        self.end, self.seconds = "open", 0.0

    async def run(self) -> None:
        """Connect, send, and wait for the end."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(self._data)
                self.end = (await reader.read(64))[9:12].decode() or "closed"
                writer.close()
        except TimeoutError:
            self.end = "open"
        except OSError:
            self.end = "closed"
        self.seconds = time.perf_counter() - started


async def ask(port: int, data: bytes) -> tuple[str, float]:
    """Send a whole request; return its status and seconds."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer[9:12].decode(), time.perf_counter() - started


async def attack(port: int, name: str, count: int, data: bytes) -> None:
    """Run one attack, and print a line about it."""
    picture = PICTURE.read_bytes()
    probes = {
        "ready": b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "encode": UPLOAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture,
    }
    slow = [Slow(port, data) for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        for one in slow:
            group.create_task(one.run())
        await asyncio.sleep(2)
        seen = []
        for probe, request in probes.items():
            answers = [await ask(port, request) for _ in range(5)]
            codes = dict(Counter(code for code, _ in answers))
            seen.append(f"{probe} {codes} in {max(seconds for _, seconds in answers):.2f} s at most")
    ends, last = dict(Counter(one.end for one in slow)), max(one.seconds for one in slow)
    print(f"{count} {name}: {'; '.join(seen)}; they ended {ends}, the last after {last:.1f} s", flush=True)


async def main(port: int) -> None:
    """Run all attacks, one after another."""
    for name, (count, data) in ATTACKS.items():
        await attack(port, name, count, data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    asyncio.run(main(parser.parse_args().port))
