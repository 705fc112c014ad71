"""The image, built and run with Prometheus by a real Docker engine. Slow, and a first build fetches gigabytes, so:

    OMNITOK_DOCKER_TESTS=1 pytest tests/deploy/test_compose_live.py

`OMNITOK_DOCKER_BUILD="--network host --build-arg TORCH_CPU_INDEX="` adds options to `docker build`. Grafana is not run.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from benchmarks.service.process import free_port

ROOT = Path(__file__).parents[2]
HEALTHY_SECONDS = 240
METRICS_SECONDS = 120
HERE = "http://127.0.0.1:8000"  # in the README
EVENTLESS = {"Pages that fire", "Replicas missing", "Alerts that fire"}  # panels of what must not have happened here


def _engine() -> bool:
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


pytestmark = [
    pytest.mark.skipif("OMNITOK_DOCKER_TESTS" not in os.environ, reason="set OMNITOK_DOCKER_TESTS=1 to build and run"),
    pytest.mark.timeout(1800),
]


@dataclass(frozen=True)
class Stack:
    """The running containers: where they answer, and how compose is told about them."""

    api: str
    prometheus: str
    compose: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        command = [*self.compose, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=self.environment).stdout

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.run("ps", "-aq", service).strip()
        text = subprocess.run(["docker", "inspect", container], check=True, capture_output=True, text=True).stdout
        return json.loads(text)[0]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not _engine():
        pytest.fail("OMNITOK_DOCKER_TESTS is set, but no Docker engine answers")
    options = shlex.split(os.environ.get("OMNITOK_DOCKER_BUILD", ""))
    subprocess.run(["docker", "build", *options, "-t", "omnitok:cpu", str(ROOT)], check=True)
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    api, prometheus = free_port(), free_port()
    stack = Stack(
        f"http://127.0.0.1:{api}",
        f"http://127.0.0.1:{prometheus}",
        (*program, "--project-directory", str(ROOT), "-f", str(ROOT / "docker-compose.yml"), "-p", "omnitok-test"),
        # A slow machine would refuse some of the work here, which is an alert's business.
        {**os.environ, "API_PORT": str(api), "PROMETHEUS_PORT": str(prometheus), "OMNITOK_MAX_QUEUE_SECONDS": "60"},
    )
    try:
        stack.run("up", "-d", "--no-build", "api", "prometheus")
        for service in ("api", "prometheus"):
            deadline = time.monotonic() + HEALTHY_SECONDS
            while (health := stack.inspect(service)["State"]["Health"]["Status"]) != "healthy":
                assert time.monotonic() < deadline, f"{service} is {health}: {stack.run('logs', service)}"
                time.sleep(1)
        yield stack
    finally:
        stack.run("down", "--volumes")


@pytest.fixture
def answers(stack: Stack, tmp_path: Path) -> Path:
    """The folder that holds what the README's curl lines wrote, run as they stand there."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("curl ")]
    assert len(lines) >= 6
    for line in lines:
        words = [*shlex.split(line.replace(HERE, stack.api)), "--noproxy", "*", "--write-out", "%{stderr}%{http_code}"]
        run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        written = tmp_path / words[words.index("-o") + 1] if "-o" in words else None
        assert (run.returncode, run.stderr) == (0, "200"), (line, written.read_bytes() if written else run.stdout)
    return tmp_path


def test_the_curl_lines_of_the_readme(answers: Path) -> None:
    samples = ROOT / "docs" / "samples"
    for name, original in {"igloo-decoded.png": "igloo.png", "photo-decoded.jpg": "igloo.jpg"}.items():
        with Image.open(answers / name) as picture, Image.open(samples / original) as source:
            assert (picture.format, picture.size) == (source.format, source.size)
    assert _frames(answers / "flight-decoded.mp4") == _frames(samples / "flight.mp4")


def _frames(path: Path) -> list[tuple[int, ...]]:
    with av.open(io.BytesIO(path.read_bytes()), "r") as container:
        return [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]


def test_the_container_is_confined(stack: Stack) -> None:
    api = stack.inspect("api")
    assert api["HostConfig"]["ReadonlyRootfs"] is True
    assert api["HostConfig"]["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in api["HostConfig"]["SecurityOpt"]
    bindings = [entry for entries in api["NetworkSettings"]["Ports"].values() for entry in entries or []]
    assert [(entry["HostIp"], entry["HostPort"]) for entry in bindings] == [("127.0.0.1", stack.api.rsplit(":", 1)[1])]
    assert stack.run("exec", "-T", "api", "id", "-u").strip() == "10001"
    assert "haproxy" in stack.run("exec", "-T", "api", "sh", "-c", "cat /proc/[0-9]*/comm")


def test_the_command_lists_what_the_image_can_run(stack: Stack) -> None:
    names = re.findall(r"^\W ([a-z]+)  ", stack.run("exec", "-T", "api", "omnitok", "--help"), re.MULTILINE)
    assert {"serve", "encode", "convert", "tokenize", "keys"} <= set(names)
    assert not {"data", "train", "evaluate", "reproduce"} & set(names)


def test_prometheus_answers_every_query_of_the_dashboard(stack: Stack) -> None:
    asyncio.run(_traffic(stack.api))
    queries = _queries()
    assert {title for title, _ in queries} > EVENTLESS
    with httpx.Client(base_url=stack.prometheus, timeout=10) as client:
        deadline = time.monotonic() + METRICS_SECONDS
        while empty := {title for title, query in queries if not _ask(client, query)} - EVENTLESS:
            assert time.monotonic() < deadline, f"no data for {empty}"
            time.sleep(2)
        wanted = {"Ingress": "2", "Tokenizer": "1", "JobOwner": "1"}
        replicas = _ask(client, "count by (deployment) (ray_serve_deployment_replica_healthy == 1)")
        assert {row["metric"]["deployment"]: row["value"][1] for row in replicas} == wanted
        both = _ask(client, "sum (omnitok_replicas{deployment='Ingress'})")
        assert both[0]["value"][1] == "2"
        encoded = _ask(client, 'sum (omnitok_http_requests_total{route="/encode", code="200"})')
        assert float(encoded[0]["value"][1]) >= 40
        rules = _rules(client)
        assert {rule["health"] for rule in rules} == {"ok"}
        deadline = time.monotonic() + METRICS_SECONDS  # what was pending while the service started ends
        while alarms := {rule["name"]: rule["state"] for rule in rules if rule.get("state", "inactive") != "inactive"}:
            assert time.monotonic() < deadline, alarms
            time.sleep(2)
            rules = _rules(client)


def test_sigterm_ends_the_service_in_time(stack: Stack) -> None:
    stack.run("stop", "api")
    state = stack.inspect("api")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


async def _traffic(url: str) -> None:
    """Equal pictures at once, clips, round trips and refusals: something for every panel to show."""
    samples = ROOT / "docs" / "samples"
    png, mp4 = (samples / "igloo.png").read_bytes(), (samples / "flight.mp4").read_bytes()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def post(path: str, body: bytes, kind: str, expected: int, accept: str = "application/msgpack") -> bytes:
            answer = await client.post(path, content=body, headers={"content-type": kind, "accept": accept})
            assert answer.status_code == expected, answer.text
            return answer.content

        for _ in range(4):
            tokens = await asyncio.gather(*(post("/encode", png, "image/png", 200) for _ in range(10)))
            await asyncio.gather(*(post("/decode", one, "application/msgpack", 200, "image/png") for one in tokens))
            await post("/encode", mp4, "video/mp4", 200)
            await post("/reconstruct", mp4, "video/mp4", 200, "video/mp4")
            await post("/encode", b"not a picture", "image/png", 415)
            await asyncio.sleep(12)  # a rate needs two scrapes that differ


def _queries() -> list[tuple[str, str]]:
    """(panel, PromQL) of the overview without GPUs, with Grafana's variables replaced as Grafana would."""
    panels = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "overview.json").read_text())["panels"]
    return [
        (panel["title"], re.sub(r"\$\w+", ".*", target["expr"].replace("$__rate_interval", "5m")))
        for panel in panels
        for target in panel.get("targets", [])
        if "omnitok_gpu" not in target["expr"]
    ]


def _rules(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the alerts and the recorded series."""
    groups = client.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    return rules


def _ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    return answer.json()["data"]["result"]
