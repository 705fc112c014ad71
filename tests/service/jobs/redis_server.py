"""A Redis of the tests' own: from the PATH, or as `make tools` unpacks it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from waiting import eventually

TOOLS = Path(__file__).parents[3] / "build" / "tools" / "usr"
PROGRAM = (
    shutil.which("valkey-server")
    or shutil.which("redis-server")
    or shutil.which("redis-server", path=str(TOOLS / "bin"))
)
NEEDS_REDIS = pytest.mark.skipif(PROGRAM is None, reason="redis-server is missing; `make tools` fetches it on Debian")


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
        eventually(lambda: _answers(url, process))
        yield url, process
    finally:
        process.kill()
        process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Redis ended."
    with suppress(redis.ConnectionError):
        return bool(redis.Redis.from_url(url).ping())
    return False
