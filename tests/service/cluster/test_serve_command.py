"""`omnitok serve` under a supervisor: SIGTERM loses nothing that was accepted, and a lost cluster ends the process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from cluster_service import Service, eventually
from PIL import Image

from benchmarks.service.process import free_port
from media.write import encode_video
from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.cluster.app import LOST_STATUS
from service.settings import Settings

SERVE = "import sys; sys.argv[1:] = ['serve']; from service.cli import main; main()"


@dataclass(frozen=True)
class Command:
    process: subprocess.Popen[str]
    service: Service
    output: Path

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.service.settings.port

    def start(self) -> list[dict[str, Any]]:
        """Return the lines of its log that tell of its start."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if '"event": "start"' in line]

    def ready(self) -> int:
        """Return the status of the readiness probe, 0 without an answer."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.service.url}/health/ready", timeout=30).status_code
        return 0

    def works(self) -> bool:
        """Return whether a request is being worked on, once there is an exporter to say so."""
        with contextlib.suppress(httpx.TransportError):
            return self.service.total("http_requests_in_flight", route="/encode") == 1
        return False


@contextlib.contextmanager
def started(tmp_path: Path) -> Iterator[Command]:
    """Run the command in a session of its own; it is ended at the end."""
    torch.manual_seed(0)
    save_bundle(tmp_path / "tiny", OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    settings = Settings(bundles=(tmp_path / "tiny",), port=free_port(), metrics_port=free_port())
    variables = {
        "OMNITOK_BUNDLES": json.dumps([str(tmp_path / "tiny")]),
        "OMNITOK_PORT": str(settings.port),
        "OMNITOK_METRICS_PORT": str(settings.metrics_port),
        "OMNITOK_RAY_METRICS_PORT": str(free_port()),
        "OMNITOK_INGRESS_REPLICAS": "1",
        "OMNITOK_MEDIA_WORKERS": "1",
        "OMNITOK_TORCH_THREADS": "1",
        "OMNITOK_DRAIN_SECONDS": "120",
        "OMNITOK_LIMITS__BODY_SECONDS": "120",
        "OMNITOK_LIMITS__BODY_BYTES_PER_SECOND": "1",
    }
    # the cluster that this process may run has set ports for its own proxy
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    output = tmp_path / "output"  # a pipe that nobody reads would fill: the log of requests is there too
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=inherited | variables,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Command(process, Service(settings, tmp_path / "tiny"), output)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with started(tmp_path) as command:
        process, output = command.process, command.output
        eventually(lambda: "ready on" in output.read_text() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        devices = "GPUs: 1" if torch.cuda.is_available() else "on the CPU, since no GPU was found"
        eventually(lambda: devices in output.read_text())
        yield command


@contextlib.contextmanager
def large_answer(command: Command) -> Iterator[HTTPResponse]:
    """Yield an answer that is made; most of its 40 MB wait in the service for their reader."""
    video = encode_video((np.full((384, 384, 3), step, np.uint8) for step in range(96)), "video/mp4", 12)
    head = "POST /reconstruct HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nAccept: application/x-npy\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(command.address)
        connection.sendall(f"{head}Content-Length: {len(video)}\r\n\r\n".encode() + video)
        with HTTPResponse(connection) as answer:
            answer.begin()
            assert answer.status == 200, answer.read()
            yield answer


def session(leader: int) -> dict[int, str]:
    """Return the names of the living processes of a session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, fields = path.read_text().split("(", 1)[1].rsplit(")", 1)
            state, _, _, number = fields.split()[:4]
            if int(number) == leader and state not in "ZX":
                found[int(path.parent.name)] = name
    return found


@pytest.mark.parametrize(
    ("process", "number"),
    [
        ("gcs_server", signal.SIGTERM),
        ("raylet", signal.SIGTERM),
        ("raylet", signal.SIGINT),
        ("ray::ServeContr", signal.SIGTERM),
    ],
)
def test_a_signal_in_the_middle_of_the_start_ends_it_cleanly(
    tmp_path: Path, process: str, number: signal.Signals
) -> None:
    with started(tmp_path) as command:
        leader = command.process.pid
        eventually(lambda: process in session(leader).values())
        command.process.send_signal(number)
        _, errors = command.process.communicate()
        assert (command.process.returncode, errors) == (0, "")
        plain = [line for line in command.output.read_text().splitlines() if not line.startswith("{")]
        assert plain == ["starting", "stopped"]
        eventually(lambda: not session(leader))


def test_its_log_shows_the_start_and_sigterm_answers_what_was_accepted(command: Command) -> None:
    eventually(lambda: any(line["stage"] == "ready" for line in command.start()))
    start = command.start()
    counts = [line for line in start if line["stage"] == "replicas"]
    assert counts[-1]["ready"] == counts[-1]["wanted"] == {"Ingress": 1, "Tokenizer": 1}
    whole = [line for line in start if "replica" not in line and line not in counts]
    replica = [line for line in start if "replica" in line]
    on_gpu = ["kernels", "graphs"] if torch.cuda.is_available() else []
    assert [line["stage"] for line in whole] == ["cluster", "bundles", "ready"]
    assert [line["stage"] for line in replica] == ["libraries", "bundles", *on_gpu, "replica"]
    for lines in (whole, counts, replica):
        assert sorted(lines, key=itemgetter("time")) == lines
    assert re.search(r"ready on \S+ after \d+ s ", command.output.read_text())
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    body = file.getvalue()  # so large that HAProxy does not wait for it, for a time that a busy machine exceeds
    head = f"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    with large_answer(command) as large, socket.create_connection(command.address) as connection:
        connection.sendall(head.encode() + body[:10])
        eventually(command.works)
        eventually(lambda: command.ready() == 200)
        command.process.send_signal(signal.SIGTERM)
        eventually(lambda: command.ready() == 503)
        connection.sendall(body[10:])
        with HTTPResponse(connection) as answer:
            answer.begin()
            assert answer.status == 200
            assert answer.read()
        with pytest.raises(subprocess.TimeoutExpired):
            command.process.wait(timeout=2)
        assert len(large.read()) == int(large.headers["Content-Length"])
    assert command.process.wait(timeout=300) == 0
    assert command.ready() == 0


def test_the_death_of_the_raylet_ends_the_command_with_a_reason(command: Command) -> None:
    listing = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    session = rf"session_[-\d]+_[-\d]+_\d+_{command.process.pid}\b"  # Ray names it after the process that started it
    (raylet,) = re.findall(rf"^ *(\d+) \S+/raylet .*{session}", listing, re.MULTILINE)
    os.kill(int(raylet), signal.SIGKILL)
    _, reason = command.process.communicate(timeout=300)
    assert command.process.returncode == LOST_STATUS
    assert "Ray's raylet died" in reason
    assert command.ready() == 0
