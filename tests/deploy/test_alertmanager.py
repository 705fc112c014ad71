"""A real Alertmanager with the example configuration sends pages and tickets to their places, and mutes the rest."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_tools import UNPACKED, needs, tool
from waiting import eventually

from benchmarks.service.process import free_port, is_ready

ROOT = Path(__file__).parents[2]
# Debian's program reads its templates from one place, where an unpacked one has not put them.
OWN_MOUNTS = "unshare", "--user", "--map-root-user", "--mount"
WITH_TEMPLATES = 'mount --bind "$0/share" /usr/share; exec "$@"'


class Pager(BaseHTTPRequestHandler):
    """A receiver of webhooks."""

    def do_POST(self) -> None:
        received = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got += [alert["labels"] for alert in received["alerts"]]  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class Mailbox(socketserver.StreamRequestHandler):
    """A mail server that keeps every line of its messages."""

    def handle(self) -> None:
        self.wfile.write(b"220 mailbox\r\n")
        while line := self.rfile.readline().strip().upper():
            if line == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while (text := self.rfile.readline()) not in (b".\r\n", b""):  # or until Alertmanager is killed
                    self.server.got.append(text.rstrip().decode())  # type: ignore[attr-defined]
            self.wfile.write(b"250 mailbox\r\n")
            if line == b"QUIT":
                return


@dataclass
class Alertmanager:
    """A running Alertmanager and those that it tells."""

    url: str
    pages: list[dict[str, str]] = field(default_factory=list)
    mail: list[str] = field(default_factory=list)

    def alert(self, **labels: str) -> None:
        body = [{"labels": labels, "annotations": {"summary": f"{labels['alertname']} of {labels.get('instance')}"}}]
        httpx.post(f"{self.url}/api/v2/alerts", json=body, trust_env=False, timeout=60).raise_for_status()

    def muted(self) -> list[tuple[str, str]]:
        alerts: list[dict[str, Any]] = httpx.get(f"{self.url}/api/v2/alerts", trust_env=False, timeout=60).json()
        return [(a["labels"]["alertname"], a["labels"]["instance"]) for a in alerts if a["status"]["inhibitedBy"]]


@contextmanager
def listener(server: socketserver.TCPServer, got: list[Any]) -> Iterator[int]:
    server.got = got  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    with server:
        yield server.server_address[1]
        server.shutdown()


def configuration(pages: int, mail: int) -> dict[str, Any]:
    """Return the example with these ports, without TLS for mail, and with no time to gather alerts."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alertmanager.yml").read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route["group_wait"] = "0s"
    pager, tickets = config["receivers"]
    pager["webhook_configs"][0]["url"] = f"http://127.0.0.1:{pages}"
    tickets["email_configs"][0] |= {"smarthost": f"127.0.0.1:{mail}", "require_tls": False}
    return config


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    port = free_port()
    running = Alertmanager(f"http://127.0.0.1:{port}")
    with ExitStack() as cleanup:
        pages = cleanup.enter_context(listener(ThreadingHTTPServer(("127.0.0.1", 0), Pager), running.pages))
        mail = cleanup.enter_context(listener(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox), running.mail))
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(configuration(pages, mail)))
        command = [tool("prometheus-alertmanager"), f"--config.file={tmp_path}/alertmanager.yml"]
        if Path(command[0]).parent == UNPACKED:
            if subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode:
                pytest.skip("An unpacked Alertmanager needs a user namespace for its templates.")
            command = [*OWN_MOUNTS, "sh", "-ec", WITH_TEMPLATES, str(UNPACKED.parent), *command]
        command += [f"--storage.path={tmp_path}", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        cleanup.callback(process.wait)
        cleanup.callback(process.kill)
        eventually(lambda: is_ready(running.url, "/-/ready"))
        yield running


@needs("prometheus-alertmanager")
def test_pages_and_tickets_go_to_their_places_and_what_follows_is_silent(alertmanager: Alertmanager) -> None:
    alertmanager.alert(alertname="OmnitokUnreachable", severity="page", instance="api:8080", job="omnitok")
    eventually(lambda: bool(alertmanager.pages))
    for instance in ("api:8080", "other:8080"):  # of the first one the page says all
        alertmanager.alert(alertname="OmnitokRestarted", severity="ticket", instance=instance)
    eventually(lambda: any("OmnitokRestarted of other:8080" in line for line in alertmanager.mail))
    assert [page["alertname"] for page in alertmanager.pages] == ["OmnitokUnreachable"]
    assert alertmanager.muted() == [("OmnitokRestarted", "api:8080")]
    assert {subject for line in alertmanager.mail if (subject := re.match("Subject: .*", line))}
    assert not any("OmnitokRestarted of api:8080" in line for line in alertmanager.mail)
