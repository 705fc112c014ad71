"""`python -m benchmarks.soak.log_lines`: millions of request lines through the log of a running service.

Lines take the way of real ones: `LineWriter`, the pipe, the relay to standard output, which this process reads as
Docker would. Afterwards a tokenizer is killed, since a full temporary folder would keep Ray from replacing it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.service.cpu import snapshot
from benchmarks.service.process import SERVE, numbered_ports, stop
from media.limits import MIB
from service.api.log import LineWriter
from service.client import Client
from service.cluster.local import FOLDER_PREFIX

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
READY_SECONDS = 600.0  # a busy machine takes long
FLUSH_LINES = 500
PIPE_LINES = 1500  # fit into the pipe
SPARE_MIB = 16.0  # Ray's own notes
LOST = re.compile(rb'"lines_lost": (\d+)')
FIELDS = {  # of an ordinary request
    "request_id": "db9d6a9c5d1f4f4d9a1b0a7f5e3c2b1a",
    "trace_id": "d4f0a1b2c3d4e5f60718293a4b5c6d7e",
    "span_id": "4685aabbccddeeff",
    "route": "/encode",
    "method": "POST",
    "status": 200,
    "caller": "my-app",
    "model": "demo-vq",
    "frames": 1,
    "positions": 256,
    "batch": 4,
    "decode_ms": 3.1,
    "queue_ms": 1.0,
    "compute_ms": 12.0,
    "render_ms": 0.1,
    "milliseconds": 16.9,
    "bytes_in": 14437,
    "bytes_out": 393,
}


class Reader(threading.Thread):
    """A thread that reads standard output of the service, and counts lines, bytes and lines that were lost."""

    def __init__(self, output: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._output = output
        self.lines = self.bytes = self.lost = 0
        self.ready = threading.Event()
        self.start()

    def run(self) -> None:
        """Read until the service ends."""
        while data := os.read(self._output.fileno(), MIB):
            self.lines += data.count(b"\n")
            self.bytes += len(data)
            if b"lines_lost" in data:
                self.lost += sum(map(int, LOST.findall(data)))
            if not self.ready.is_set() and b"ready on" in data:
                self.ready.set()


@app.command()
def main(
    lines: Annotated[int, typer.Option(help="Request lines.")] = 10_000_000,
    folder: Annotated[Path, typer.Option(help="RAY_TMPDIR; a small tmpfs shows more. At most 10 characters.")] = Path(
        "/tmp/lg"
    ),
    port: Annotated[int, typer.Option(help="Of the API; the next two are for metrics.")] = 8380,
) -> None:
    """Write lines to a new service, kill its tokenizer, and print what the folder held; the status is 1 if it grew."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | numbered_ports(port) | {"RAY_TMPDIR": str(folder)}
    service = subprocess.Popen(SERVE, stdout=subprocess.PIPE, env=environment)
    assert service.stdout is not None
    try:
        reader = Reader(service.stdout)
        if not reader.ready.wait(READY_SECONDS):
            raise TimeoutError(f"The service did not start within {READY_SECONDS:.0f} s.")
        with Client(f"http://127.0.0.1:{port}") as client:
            tokens = client.encode(_picture()).tokens
            before, first = _used(folder), reader.lines + reader.lost
            begun = time.monotonic()
            most = asyncio.run(_write(next(folder.glob(f"{FOLDER_PREFIX}*/log")), lines, folder, reader))
            seconds = time.monotonic() - begun
            after = _used(folder)
            arrived, counted = reader.lines - first, reader.lines + reader.lost - first
            print(f"{lines:,} lines in {seconds:.0f} s: {arrived:,} read, {reader.lost:,} counted as lost, ", end="")
            print(f"{reader.bytes / 1e6:,.0f} MB. {counted / lines:.2%} accounted for.")
            print(f"{folder}: {before:.1f} MiB before, at most {most:.1f} meanwhile, {after:.1f} after.")
            victim = next(pid for pid, process in snapshot(service.pid).items() if process.name == "Tokenizer")
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            same = np.array_equal(np.asarray(client.encode(_picture()).tokens), np.asarray(tokens))
            print(f"A killed tokenizer was replaced after {time.monotonic() - killed:.1f} s, equal tokens: {same}.")
    finally:
        stop(service)
    if not same or most > before + SPARE_MIB:
        raise typer.Exit(1)


async def _write(pipe: Path, lines: int, folder: Path, reader: Reader) -> float:
    """Write the lines, no faster than they are read, and return the most MiB that the folder held."""
    writer, most, first = LineWriter(pipe, "x4k2p9q1"), 0.0, reader.lines
    for number in range(1, lines + 1):
        writer.write(logging.INFO, "request", FIELDS)  # gathers, as on the loop of an ingress replica
        if number % FLUSH_LINES == 0:
            writer.flush()
            while number - (reader.lines - first) > PIPE_LINES and reader.is_alive():
                await asyncio.sleep(0.0005)
        if number % 100_000 == 0:
            most = max(most, _used(folder))
    writer.close()
    await asyncio.sleep(1.0)
    return max(most, _used(folder))


def _used(folder: Path) -> float:
    """Return MiB in use: of the whole file system if the folder is one, else of its files."""
    if folder.is_mount():
        return shutil.disk_usage(folder).used / MIB
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total / MIB


def _picture() -> NDArray[np.uint8]:
    return np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


if __name__ == "__main__":
    app()
