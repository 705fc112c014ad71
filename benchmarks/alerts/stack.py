"""A service under a supervisor, with a Prometheus that has this project's own configuration and rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.service.cpu import snapshot

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
TOOLS = ROOT / "build" / "tools" / "usr" / "bin"  # where `make tools` unpacks Prometheus
SERVE = "import sys; sys.argv[1:] = ['serve']; from service.cli import main; main()"
START_SECONDS = 300.0
DISK_BYTES = 256 * 2**20


class StackError(RuntimeError):
    """A part of the stack that does not start; the message names its log."""


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """The service and Prometheus.

    Args:
        folder: of logs and data.
        disk: a small file system for Ray's folder, which a fault may fill.
        variables: of the service.
    """

    folder: Path
    disk: Path
    variables: dict[str, str]
    restart_pause_seconds: float = 1.0
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = None
    _server: subprocess.Popen[bytes] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        names = ("OMNITOK_PORT", "OMNITOK_METRICS_PORT", "OMNITOK_RAY_METRICS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
        self.ports = {name: free_port() for name in (*names, "PROMETHEUS")}
        self.url = f"http://127.0.0.1:{self.ports['OMNITOK_PORT']}"
        self.prometheus_url = f"http://127.0.0.1:{self.ports['PROMETHEUS']}"

    def supervise(self) -> None:
        """Start the service, and start it again whenever it ends, as a supervisor does."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
        ports = {name: str(port) for name, port in self.ports.items() if name != "PROMETHEUS"}
        environment = inherited | ports | self.variables | {"RAY_TMPDIR": str(self.disk), "PYTHONPATH": str(ROOT)}

        def run() -> None:
            while not self._ended.is_set():
                with (self.folder / "service.log").open("ab") as log:
                    self.process = subprocess.Popen(
                        [sys.executable, "-c", SERVE], env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                    self.process.wait()
                self.restarts += 1
                self._ended.wait(self.restart_pause_seconds)

        threading.Thread(target=run, daemon=True).start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the service is ready.

        Raises:
            StackError: it is not, within some minutes.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", timeout=10, trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        raise StackError(f"The service is not ready after {START_SECONDS:.0f} s; see {self.folder}/service.log.")

    def watch(self) -> None:
        """Start Prometheus."""
        self.configure()
        binary = shutil.which("prometheus") or shutil.which("prometheus", path=str(TOOLS))
        if binary is None:
            raise StackError("Prometheus is missing: `make tools` fetches it on Debian.")
        command = [binary, f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data"]
        with (self.folder / "prometheus.log").open("wb") as log:
            address = f"--web.listen-address=127.0.0.1:{self.ports['PROMETHEUS']}"
            self._server = subprocess.Popen([*command, address], stdout=log, stderr=log)

    def configure(self, without: str = "") -> None:
        """Write Prometheus' configuration with the ports of this stack, and have it read.

        Args:
            without: a job that is left out.
        """
        jobs = {
            "omnitok": self.ports["OMNITOK_METRICS_PORT"],
            "ray": self.ports["OMNITOK_RAY_METRICS_PORT"],
            "edge": self.ports["RAY_SERVE_HAPROXY_METRICS_PORT"],
            "prometheus": self.ports["PROMETHEUS"],
        }
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != without]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{jobs[job['job_name']]}"]}]
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        if self._server is not None:
            self._server.send_signal(signal.SIGHUP)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        url = f"{self.prometheus_url}/api/v1/query"
        answer = httpx.get(url, params={"query": query}, timeout=30, trust_env=False)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]["result"]
        return rows

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        with suppress(httpx.TransportError):  # not up yet
            return {row["metric"]["alertname"] for row in self.ask('ALERTS{alertstate="firing"}')}
        return set()

    def pids(self, pattern: str) -> list[int]:
        """Return the processes of the service whose command line or name fits a pattern."""
        assert self.process is not None
        found = []
        for pid in snapshot(self.process.pid):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if re.search(pattern, line):
                    found.append(pid)
        return found

    def kill(self, pattern: str) -> int:
        """End the processes that fit a pattern by SIGKILL, and return how many."""
        victims = self.pids(pattern)
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def close(self) -> None:
        """Stop everything."""
        self._ended.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(90)
        if self._server is not None:
            self._server.terminate()
            self._server.wait()


@contextmanager
def stack(folder: Path, bundle: Path, generator: Path) -> Iterator[Stack]:
    """Yield a running stack; its disk is in memory and small, which needs root."""
    disk = Path(f"/tmp/a{os.getpid() % 1000:03}")  # short: Ray's sockets are in it
    disk.mkdir()
    with ExitStack() as cleanup:
        cleanup.callback(disk.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
        cleanup.callback(subprocess.run, ["umount", "-l", str(disk)], check=False)
        variables = {
            "OMNITOK_BUNDLES": json.dumps([str(bundle.resolve())]),
            "OMNITOK_GENERATORS": json.dumps([str(generator.resolve())]),
            "OMNITOK_MAX_QUEUE_SECONDS": "30",
            "OMNITOK_TORCH_THREADS": "1",
            "OMNITOK_JOBS_FOLDER": str(folder / "jobs"),
        }
        running = Stack(folder, disk, variables)
        cleanup.callback(running.close)
        running.supervise()
        running.watch()
        yield running
