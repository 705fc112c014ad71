"""Servers in processes of their own, `omnitok serve` above all: ports, readiness, and an end without leftovers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from service.cluster.ports import reserve_port
from service.cluster.process_tree import descendants, signal_all
from service.cluster.ray_environment import HAPROXY_PORTS

ROOT = Path(__file__).parents[2]
SERVE = (sys.executable, "-c", "from service.cli import main; main()", "serve")
START_SECONDS, STOP_SECONDS = 300.0, 120.0
POLL_SECONDS = 0.2
LOG_LINES, LOG_BYTES = 20, 2**20  # of the end of a log, in an error
REQUEST = '"event": "request"'  # in a line of the service's log
API, METRICS, RAY_METRICS = "OMNITOK_PORT", "OMNITOK_METRICS_PORT", "OMNITOK_RAY_METRICS_PORT"
EDGE_METRICS = "RAY_SERVE_HAPROXY_METRICS_PORT"
# Below those of Ray's replicas, and below those that Linux gives to connections that go out.
CANDIDATES = range(10_000, 30_000)
_reservations: list[socket.socket] = []


class StartError(RuntimeError):
    """A server that does not become ready; the message holds the end of its log."""


def free_port() -> int:
    """Return a port that no other caller gets, in this process or in another, for as long as this process lives."""
    port, reservation = reserve_port(random.sample(CANDIDATES, 100))
    _reservations.append(reservation)
    return port


def free_ports() -> dict[str, str]:
    """Return variables that give every port of a service."""
    return {name: str(free_port()) for name in (API, METRICS, RAY_METRICS, *HAPROXY_PORTS)}


def numbered_ports(first: int) -> dict[str, str]:
    """Return variables that give the API this port, and its metrics the next two."""
    return {name: str(first + offset) for offset, name in enumerate((API, METRICS, RAY_METRICS))}


def serve(
    log: Path, variables: Mapping[str, str], cpus: Collection[int] | None = None, session: bool = False
) -> subprocess.Popen[bytes]:
    """Start `omnitok serve` of this checkout.

    Args:
        log: file that its output is added to.
        variables: of its environment, `OMNITOK_*` among them.
        cpus: that it may use; those of this thread if None.
        session: give it a session of its own, which no signal of this terminal reaches.
    """
    environment = os.environ | python_path() | dict(variables)
    with pinned(cpus), log.open("ab") as output:
        return subprocess.Popen(SERVE, env=environment, stdout=output, stderr=output, start_new_session=session)


def python_path() -> dict[str, str]:
    """Return the variable by which processes find the packages of this checkout before others."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)}


@contextmanager
def pinned(cpus: Collection[int] | None) -> Iterator[None]:
    """Give this thread some CPUs; processes that it starts meanwhile keep them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpus is None else cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def is_ready(url: str, path: str = "/health/ready") -> bool:
    """Return whether a server answers 200."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}{path}", timeout=10, trust_env=False).status_code == 200
    return False


def wait_ready(
    url: str,
    process: subprocess.Popen[bytes],
    log: Path,
    seconds: float = START_SECONDS,
    path: str = "/health/ready",
) -> None:
    """Return when a server answers 200.

    Args:
        url: of the server.
        process, log: of the server.
        seconds: that it may take.
        path: to ask for.

    Raises:
        StartError: it ended, or is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while not is_ready(url, path):
        if process.poll() is not None:
            raise StartError(f"The server at {url} ended with status {process.returncode}.\n{log_tail(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"{url}{path} did not answer 200 within {seconds:.0f} s.\n{log_tail(log)}")
        time.sleep(POLL_SECONDS)


def log_tail(log: Path) -> str:
    """Return the last lines of a log, those of single requests left out."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if REQUEST not in line][-LOG_LINES:])


def stop(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> int:
    """End a process by SIGTERM, after a while by SIGKILL with all that it started, and return its status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        return process.wait()


def kill_tree(root: int) -> None:
    """End a process and all that it started by SIGKILL."""
    found: set[int] = set()
    while begun := {root, *descendants(root)} - found:  # until it is stopped, each may start another one
        signal_all(begun, signal.SIGSTOP)
        found |= begun
    signal_all(found, signal.SIGKILL)
