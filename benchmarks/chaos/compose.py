"""`python -m benchmarks.chaos.compose`: the containers of docker-compose.yml, kills in them, alerts and their runbooks.

Every kill is watched by a caller that does not retry. While its alert fires, the commands of its runbook run as they
are written there, those that mend come last. It needs a Docker engine with the images; Grafana is not started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.rows import markdown_table

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 400.0
ALERT_SECONDS = 120.0
SCRAPES = 'count_over_time(up{job="omnitok"}[10m]) > 3 and on () up{job="edge"} == 1 and on () up{job="omnitok"} == 1'
STEADY_SECONDS = 5.0  # without a failure: the service is back
CALL_SECONDS = 10.0
CALL_PAUSE_SECONDS = 0.1
COLUMNS = (
    *("SIGKILL of", "container restarted after, s", "failed", "last failure after, s", "slowest call, s"),
    *("alert, s", "commands of its runbook with an answer"),
)
# Docker 20.10 has no `docker compose`.
COMPOSE_V1 = 'docker() { if [ "$1" = compose ]; then shift; docker-compose "$@"; else command docker "$@"; fi; }\n'


@dataclass(frozen=True)
class Kill:
    """SIGKILL of processes in the container.

    Args:
        title: for the table.
        file: of a process, `comm` or `cmdline`, that names the victims.
        pattern: of it, for grep.
        alert: that fires, if one does.
        sign: query whose value changes then.
    """

    title: str
    file: str
    pattern: str
    alert: str = ""
    sign: str = "max(omnitok_start_time_seconds)"


KILLS = {
    "haproxy": Kill("HAProxy", "comm", "^haproxy$", "OmnitokEdgeRestarted", "max(haproxy_process_start_time_seconds)"),
    "raylet": Kill("raylet", "comm", "^raylet$", "OmnitokRestarted"),
    "gcs": Kill("GCS", "comm", "^gcs_server$", "OmnitokRestarted"),
    "main": Kill("`omnitok serve`", "comm", "^omnitok$", "OmnitokRestarted"),
    "tokenizer": Kill("the only tokenizer", "cmdline", "ServeReplica:omnitok:Tokenizer"),
    "ingress": Kill("both ingress replicas", "cmdline", "ServeReplica:omnitok:Ingress"),
    "controller": Kill("Serve's controller", "cmdline", "ray::ServeController"),
}


@dataclass
class Caller:
    """A thread that encodes a picture over and over, without retries."""

    url: str
    done: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[float, float, int]] = field(default_factory=list)  # begin, end, status; 0 for no answer

    def __enter__(self) -> Caller:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()

    def _run(self) -> None:
        body = (ROOT / "docs" / "samples" / "igloo.png").read_bytes()
        headers = {"Content-Type": "image/png"}
        with httpx.Client(base_url=self.url, timeout=CALL_SECONDS, trust_env=False) as http:
            while not self.done.wait(CALL_PAUSE_SECONDS):
                begun, status = time.monotonic(), 0
                with suppress(httpx.TransportError):
                    status = http.post("/encode?size=64", content=body, headers=headers).status_code
                self.calls.append((begun, time.monotonic(), status))


@dataclass
class Compose:
    """The running containers.

    Args:
        port: of the API; the next one is Prometheus'.
    """

    port: int

    def __post_init__(self) -> None:
        ports = {"API_PORT": str(self.port), "PROMETHEUS_PORT": str(self.port + 1)}
        self.environment = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": "omnitok-chaos"}
        self.url, self.prometheus = (f"http://127.0.0.1:{port}" for port in (self.port, self.port + 1))

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a runbook has it, in the checkout."""
        prefix = COMPOSE_V1 if shutil.which("docker-compose") else ""
        command = ["sh", "-c", prefix + script]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)

    def run(self, script: str) -> str:
        """Run a command and return what it printed.

        Raises:
            RuntimeError: it failed.
        """
        done = self.shell(script)
        if done.returncode:
            raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def forget(self) -> None:
        """Start Prometheus anew without its memory, and so without alerts of the last kill."""
        self.run("docker compose rm -sf prometheus")
        self.run("docker volume rm ${COMPOSE_PROJECT_NAME}_prometheus")
        self.run("docker compose up -d --no-build prometheus")
        until(lambda: self.value(SCRAPES) is not None)

    def inspect(self) -> dict[str, Any]:
        """Return what Docker knows of the service's container."""
        found: dict[str, Any] = json.loads(self.run("docker inspect $(docker compose ps -q api)"))[0]
        return found

    def is_ready(self) -> bool:
        """Return whether the service is ready."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health/ready", timeout=5, trust_env=False).status_code == 200
        return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        url = f"{self.prometheus}/api/v1/query"
        rows: list[dict[str, Any]] = httpx.get(url, params={"query": query}, timeout=20, trust_env=False).json()[
            "data"
        ]["result"]
        return rows

    def firing(self) -> set[str]:
        """Return the alerts that fire."""
        return {row["metric"]["alertname"] for row in self.ask('ALERTS{alertstate="firing"}')}

    def value(self, query: str) -> float | None:
        """Return the value of a query, None without one."""
        return float(rows[0]["value"][1]) if (rows := self.ask(query)) else None


def until(is_true: Callable[[], bool]) -> float | None:
    """Return the seconds until something is true, None if it is not."""
    begun = time.monotonic()
    while time.monotonic() - begun < WAIT_SECONDS:
        if is_true():
            return time.monotonic() - begun
        time.sleep(0.2)
    return None


def kill(compose: Compose, what: Kill) -> tuple[str, ...]:
    """Kill, and return the row of the table."""
    compose.forget()
    started, restarts = compose.inspect()["State"]["StartedAt"], compose.inspect()["RestartCount"]
    with Caller(compose.url) as caller:
        time.sleep(STEADY_SECONDS)
        script = f"kill -9 $(grep -lsE {what.pattern!r} /proc/[0-9]*/{what.file} | cut -d/ -f3)"
        compose.shell(f'docker compose exec -T api sh -c "{script.replace("$", chr(92) + "$")}"')
        begun = time.monotonic()
        restarted = fired = None
        sign = compose.value(what.sign)
        while (seconds := time.monotonic() - begun) < WAIT_SECONDS:
            if restarted is None and compose.inspect()["State"]["StartedAt"] != started:
                restarted = time.monotonic() - begun
            if fired is None and compose.value(what.sign) not in (None, sign) and what.alert in compose.firing():
                fired = time.monotonic() - begun
            recent = [status for _, end, status in list(caller.calls) if end > time.monotonic() - STEADY_SECONDS]
            is_back = len(recent) > 2 and all(status == 200 for status in recent)
            if is_back and seconds > 2 * STEADY_SECONDS and (not what.alert or fired or seconds > ALERT_SECONDS):
                break
            time.sleep(0.2)
    after = [call for call in caller.calls if call[1] > begun]
    failed = [call for call in after if call[2] != 200]
    back = max((end for _, end, _ in failed), default=begun) - begun
    longest = max(end - start for start, end, _ in after)
    codes = ", ".join(sorted({str(status) for *_, status in failed}))
    again = f"{restarted:.1f}" if restarted else "not needed"
    print(f"restarts {compose.inspect()['RestartCount'] - restarts}; firing {sorted(compose.firing())}", flush=True)
    runbook = follow(compose, what.alert) if what.alert else ""
    lost = f"{len(failed)} of {len(after)}{f' ({codes})' if codes else ''}"
    alert = what.alert and f"{what.alert}, {f'{fired:.0f}' if fired else 'not'}"
    return what.title, again, lost, f"{back:.1f}", f"{longest:.1f}", alert, runbook


def follow(compose: Compose, alert: str) -> str:
    """Run the commands of a runbook, and return how many succeeded with an answer."""
    page = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    confirm, _, rest = page.partition("## Mitigate")
    mend, _, fix = rest.partition("## Fix")
    commands = [
        line
        for part in (confirm, fix, mend)
        for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
        for line in block.splitlines()
    ]
    good = 0
    for command in commands:
        # No terminal here, and perhaps other ports.
        command = command.replace("docker compose exec ", "docker compose exec -T ")
        for port, ours in ((8000, compose.port), (9090, compose.port + 1)):
            command = command.replace(f"//127.0.0.1:{port}", f"//127.0.0.1:{ours}")
        done = compose.shell(command)
        is_good = done.returncode == 0 and bool((done.stdout + done.stderr).strip())
        good += is_good
        print(
            f"{'ok' if is_good else 'NOT ok'}: {command}\n    {(done.stdout + done.stderr).strip()[-300:]}", flush=True
        )
    if until(compose.is_ready) is None:
        return f"{good} of {len(commands)}; not ready afterwards"
    return f"{good} of {len(commands)}"


@app.command()
def main(
    port: Annotated[int, typer.Option(help="Of the API; the next one is Prometheus'.")] = 8410,
    only: Annotated[list[str] | None, typer.Option(help="Kills, by name; all by default.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave the containers.")] = False,
) -> None:
    """Start, kill, follow the runbooks, stop, and print what happened."""
    compose = Compose(port)
    begun, codes = time.monotonic(), []
    compose.run("docker compose up -d --no-build api prometheus")

    def is_up() -> bool:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{compose.url}/models", timeout=5, trust_env=False)
            codes.append(f"{answer.status_code} {answer.headers['content-type']}")
        return compose.is_ready()

    try:
        until(is_up)
        print(f"ready after {time.monotonic() - begun:.1f} s; before: {sorted(set(codes[:-1]))}", flush=True)
        usage = "docker stats --no-stream --format '{{.MemUsage}} {{.CPUPerc}}' $(docker compose ps -q api)"
        time.sleep(60.0)
        print(f"idle: {compose.run(usage)}; firing: {sorted(compose.firing())}", flush=True)
        rows = [kill(compose, KILLS[name]) for name in only or KILLS]
        print("\n".join(markdown_table(COLUMNS, rows)), flush=True)
        print(
            f"after all: {compose.run(usage)}; {compose.run('docker compose exec -T api df -m /tmp').splitlines()[-1]}"
        )
        begun = time.monotonic()
        compose.run("docker compose stop api")
        state = compose.inspect()["State"]
        print(f"stopped after {time.monotonic() - begun:.1f} s with {state['ExitCode']}, OOM {state['OOMKilled']}")
    finally:
        if not keep:
            compose.run("docker compose down --volumes")


if __name__ == "__main__":
    app()
