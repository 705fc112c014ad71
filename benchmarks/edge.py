"""`python -m benchmarks.edge`: a service that asks for keys, and a look at each bound of its edge from outside.

Connections are counted by client, except those of loopback. `--address` names another address of this machine for them:

    unshare --net sh -c 'ip link set lo up; ip addr add 198.51.100.1 dev lo; exec python -m benchmarks.edge \
        --address 198.51.100.1'
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import httpx
import numpy as np
import typer

from benchmarks.service.cpu import snapshot
from benchmarks.service.process import START_SECONDS, numbered_ports, serve, stop, wait_ready
from media.write import encode_image
from service.formats.media_types import PROBLEM_TYPE
from service.keys import Key, new_key, read_keys, write_keys

SIDE, POSITIONS = 64, 64  # of a picture, and what it costs with patches of eight
BUDGET_PER_MINUTE, BUDGET_SECONDS, BUDGET_CALLERS = 3000, 20.0, 4
RELOAD_SECONDS = 10.0
MAX_CONNECTIONS, CONNECTIONS_TRIED = 40, 100
IDEMPOTENT_CALLS = 8
COMEBACKS = 5


class Edge:
    """A service with keys, and the rows of what was seen.

    Args:
        folder: of the keys and the log.
        port: of the API; the next ones are for metrics.
        host: that it listens on.
    """

    def __init__(self, folder: Path, port: int, host: str) -> None:
        self.port, self.host = port, host
        self.keys, self.log = folder / "keys.json", folder / "service.log"
        self.secrets: dict[str, str] = {}
        self.faults: list[str] = []
        self._kept: list[Key] = []
        self.add("all", ("encode", "decode"))
        self.add("decoder", ("decode",))
        self.add("poor", ("encode",), BUDGET_PER_MINUTE)

    def add(self, name: str, scopes: tuple[str, ...], budget: int | None = None) -> None:
        """Write one more key."""
        self.secrets[name], key = new_key(name, scopes, budget)
        self._kept.append(key)
        write_keys(self.keys, self._kept)

    def remove(self, name: str) -> None:
        """Take a key away."""
        self._kept = [key for key in read_keys(self.keys) if key.name != name]
        write_keys(self.keys, self._kept)

    def serve(self, host: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a service."""
        return serve(self.log, numbered_ports(self.port) | {"OMNITOK_HOST": host} | variables)

    def client(self, name: str | None) -> httpx.Client:
        """Return a client with a key; None is nobody."""
        headers = {} if name is None else {"Authorization": f"Bearer {self.secrets.get(name, name)}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60, trust_env=False)

    def report(self, title: str, seen: str, right: bool) -> None:
        """Print a row."""
        print(f"| {title} | {seen} | {'yes' if right else 'NO'} |", flush=True)
        if not right:
            self.faults.append(title)


def main(
    port: Annotated[int, typer.Option(help="Of the API; the next ones are for metrics.")] = 8340,
    address: Annotated[str | None, typer.Option(help="Of this machine, outside of loopback.")] = None,
) -> None:
    """Start a service, look at its edge, and print a table; the status is 1 if a bound did not hold."""
    with TemporaryDirectory() as folder:
        edge = Edge(Path(folder), port, "127.0.0.1" if address is None else "0.0.0.0")
        print("| bound | seen | as it should be |\n|---|---|---|")
        refuse_to_listen(edge)
        with _running(edge) as service:
            access(edge)
            reload(edge, service)
            budget(edge)
            idempotency(edge)
            if address is not None:
                connections(edge, address)
        if edge.faults:
            raise typer.Exit(1)


def refuse_to_listen(edge: Edge) -> None:
    """Start a service for everyone without keys."""
    begun = time.monotonic()
    service = edge.serve("0.0.0.0")
    status = service.wait(START_SECONDS)
    text = edge.log.read_text()
    seen = f"status {status} after {time.monotonic() - begun:.1f} s"
    edge.report("an address for everyone without keys", seen, status > 0 and "omnitok keys add" in text)


def access(edge: Edge) -> None:
    """Call with and without keys."""
    cases = {
        "no key": (None, 401),
        "a wrong key": ("omnitok_" + secrets.token_urlsafe(32), 401),
        "a key of another scope": ("decoder", 403),
        "a key of the scope": ("all", 200),
    }
    for who, (name, status) in cases.items():
        with edge.client(name) as client:
            answer = _encode(client)
        is_problem = status == 200 or answer.headers["content-type"] == PROBLEM_TYPE
        edge.report(f"encode with {who}", str(answer.status_code), answer.status_code == status and is_problem)
    with edge.client(None) as client:
        status = client.get("/health/ready").status_code
    edge.report("readiness without a key", str(status), status == 200)


def reload(edge: Edge, service: subprocess.Popen[bytes]) -> None:
    """Add and remove a key while the service runs."""
    replicas = _replicas(service.pid)
    edge.add("late", ("encode",))
    for title, change, status in (("added", None, 200), ("removed", edge.remove, 401)):
        if change is not None:
            change("late")
        begun = last = time.monotonic()
        with edge.client("late") as client:
            while time.monotonic() < begun + RELOAD_SECONDS:
                if _encode(client).status_code != status:
                    last = time.monotonic()
        seconds = last - begun
        seen = f"every replica knows after {seconds:.1f} s, and none was replaced"
        edge.report(f"a key is {title}", seen, seconds < RELOAD_SECONDS / 2 and _replicas(service.pid) == replicas)


def budget(edge: Edge) -> None:
    """Use a budget up from several connections, and come back when a refusal says so."""
    answers: Counter[int] = Counter()
    headers: list[httpx.Headers] = []
    until = time.monotonic() + BUDGET_SECONDS

    def call(_: int) -> None:
        with edge.client("poor") as client:
            while time.monotonic() < until:
                answer = _encode(client)
                answers[answer.status_code] += 1
                headers.append(answer.headers)
                if answer.status_code == 429:
                    time.sleep(float(answer.headers["retry-after"]))

    with ThreadPoolExecutor(BUDGET_CALLERS) as threads:
        list(threads.map(call, range(BUDGET_CALLERS)))
    used = POSITIONS * answers[200]
    given = BUDGET_PER_MINUTE * (1 + BUDGET_SECONDS / 60)
    seen = f"{used} positions in {BUDGET_SECONDS:.0f} s of {given:.0f}; {answers[429]} x 429"
    is_kept = 0.5 < used / given < 1.2 and answers[429] > 0
    edge.report(f"a budget of {BUDGET_PER_MINUTE} positions a minute", seen, is_kept)
    fields = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    are_there = all(name in one for one in headers for name in fields)
    edge.report("`RateLimit-*` in each answer", f"in {len(headers)} answers", are_there)
    back: Counter[int] = Counter()
    with edge.client("poor") as client:
        while back.total() < COMEBACKS:
            if (answer := _encode(client)).status_code == 429:
                time.sleep(float(answer.headers["retry-after"]))
                back[_encode(client).status_code] += 1
    edge.report("one caller after `Retry-After`", str(dict(back)), back[200] == COMEBACKS)


def idempotency(edge: Edge) -> None:
    """Send a request again under its key, at the same time and later, and another one under the same key."""
    key = {"Idempotency-Key": secrets.token_hex(8)}

    def call(number: int) -> httpx.Response:
        with edge.client("all") as client:
            return _encode(client, key)

    with ThreadPoolExecutor(IDEMPOTENT_CALLS) as threads:
        at_once = list(threads.map(call, range(IDEMPOTENT_CALLS)))
    computed = [one for one in at_once if one.status_code == 200 and "idempotent-replayed" not in one.headers]
    seen = str(dict(Counter(one.status_code for one in at_once)))
    edge.report(f"{IDEMPOTENT_CALLS} requests at once with one key, of which one is computed", seen, len(computed) == 1)
    later = call(0)
    is_same = later.content == computed[0].content and later.headers.get("idempotent-replayed") == "true"
    edge.report("the same request later", f"{later.status_code}, replayed", is_same)
    with edge.client("all") as client:
        other = client.post("/encode?size=32", content=_picture(), headers=key | {"Content-Type": "image/png"})
    edge.report("another request with this key", str(other.status_code), other.status_code == 422)


def connections(edge: Edge, address: str) -> None:
    """Open more connections than a client may have; a client of another address notices nothing."""
    for title, host in (("another address", address), ("loopback, which is exempt", "127.0.0.1")):
        opened = [socket.create_connection((host, edge.port)) for _ in range(CONNECTIONS_TRIED)]
        time.sleep(1.0)
        kept = sum(_is_open(one) for one in opened)
        with edge.client("all") as client:
            status = _encode(client).status_code
        for one in opened:
            one.close()
        bound = MAX_CONNECTIONS if host == address else CONNECTIONS_TRIED
        seen = f"{kept} stay open; others get {status}"
        edge.report(f"{CONNECTIONS_TRIED} connections of {title}", seen, kept == bound and status == 200)


@contextmanager
def _running(edge: Edge) -> Iterator[subprocess.Popen[bytes]]:
    service = edge.serve(edge.host, OMNITOK_KEYS=str(edge.keys), OMNITOK_CLIENT_CONNECTIONS=str(MAX_CONNECTIONS))
    try:
        wait_ready(f"http://127.0.0.1:{edge.port}", service, edge.log)
        yield service
    finally:
        stop(service)


def _replicas(root: int) -> set[int]:
    return {pid for pid, one in snapshot(root).items() if one.name in ("Ingress", "Tokenizer")}


def _picture() -> bytes:
    pixels = np.arange(SIDE * SIDE * 3, dtype=np.uint32).reshape(1, SIDE, SIDE, 3).astype(np.uint8)
    return encode_image(pixels, "image/png")


def _encode(client: httpx.Client, headers: dict[str, str] | None = None) -> httpx.Response:
    return client.post("/encode", content=_picture(), headers={"Content-Type": "image/png"} | (headers or {}))


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    typer.run(main)
