"""A Redis of the tests' own: from the PATH, or as `make tools` unpacks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

TOOLS = Path(__file__).parents[3] / "build" / "tools" / "usr"
PROGRAM = (
    shutil.which("valkey-server")
    or shutil.which("redis-server")
    or shutil.which("redis-server", path=str(TOOLS / "bin"))
)
NEEDS_REDIS = pytest.mark.skipif(PROGRAM is None, reason="redis-server is missing; `make tools` fetches it on Debian")
START_SECONDS = 30.0


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server that keeps every write in a folder; yield its address and its process."""
    assert PROGRAM is not None
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "socket"
    libraries = [str(path) for path in (TOOLS / "lib").glob("*") if path.is_dir()]
    command = [PROGRAM, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else None
    process = subprocess.Popen(command, env=environment)
    url = f"unix://{socket}"
    try:
        _wait(url, process)
        yield url, process
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            redis.Redis.from_url(url).ping()
        except redis.ConnectionError:
            assert process.poll() is None, "Redis ended."
            assert time.monotonic() < deadline, "Redis does not answer."
            time.sleep(0.02)
        else:
            return
