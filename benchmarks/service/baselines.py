"""Baselines on this machine: the bare engine, plain FastAPI with a thread, and `@serve.batch`."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.service.baseline_engine import BATCH, Encoder, read_pixels
from benchmarks.service.load import Load, Run, run_load
from benchmarks.service.mixes import KINDS, MIXES
from benchmarks.service.process import START_SECONDS, free_port, stop

SERVERS = {"FastAPI, one thread": "plain_fastapi", "Ray Serve, @serve.batch": "serve_batch"}


def engine_rate(mix: str, bundle: Path, dtype: str, seconds: float) -> float:
    """Return the requests per second of the engine in this process, in full batches of equal size.

    Args:
        mix: name in `MIXES`, without generation.
        bundle, dtype: of the engine.
        seconds: length.
    """
    encoder, rng = Encoder(bundle, dtype), np.random.default_rng(0)
    kinds = MIXES[mix].kinds
    batches = [[read_pixels(KINDS[name].body(rng), KINDS[name].content_type) for _ in range(BATCH)] for name in kinds]
    spent = np.zeros(len(kinds))
    calls = np.zeros(len(kinds))
    for _ in range(2):
        for batch in batches:
            encoder.encode(batch)
    while spent.sum() < seconds:
        for index, batch in enumerate(batches):
            began = time.perf_counter()
            encoder.encode(batch)
            spent[index] += time.perf_counter() - began
            calls[index] += 1
    per_request = spent / calls / BATCH
    return float(1.0 / (per_request @ np.array(list(kinds.values()))))


def measure(load: Load, bundle: Path, dtype: str) -> Iterator[tuple[str, Run]]:
    """Yield each server under a closed loop.

    Args:
        load: in closed loop; its address is replaced.
        bundle, dtype: of the engine.
    """
    for name, module in SERVERS.items():
        with _serving(module, bundle, dtype) as (url, pid):
            yield name, run_load(load.at(url), pid)


@contextmanager
def _serving(module: str, bundle: Path, dtype: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    command = [sys.executable, "-m", f"benchmarks.service.{module}", str(bundle), dtype, str(port)]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, server)
        yield url, server.pid
    finally:
        stop(server)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for any answer but one of a server that has no application yet."""
    body = KINDS["img128"].body(np.random.default_rng(0))
    request = urllib.request.Request(f"{url}/encode", body, {"Content-Type": KINDS["img128"].content_type})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"The baseline in process {server.pid} did not answer 200; see its output.")
