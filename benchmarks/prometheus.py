"""A Prometheus that reads a service on this machine, with this project's own configuration and rules."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.service.process import EDGE_METRICS, METRICS, RAY_METRICS, ROOT, StartError, free_port, stop, wait_ready

RULES = ROOT / "deploy" / "prometheus"
TOOLS = ROOT / "build" / "tools" / "usr" / "bin"  # where `make tools` unpacks Prometheus
START_SECONDS = 60.0


class Prometheus:
    """A server in a process of its own.

    Args:
        folder: of its configuration, data and log.
        ports: of the service, as variables.

    Raises:
        StartError: Prometheus is missing.
    """

    def __init__(self, folder: Path, ports: Mapping[str, str]) -> None:
        self._folder, port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = {
            "omnitok": ports[METRICS],
            "ray": ports[RAY_METRICS],
            "edge": ports[EDGE_METRICS],
            "prometheus": str(port),
        }
        self.url = f"http://127.0.0.1:{port}"
        binary = shutil.which("prometheus") or shutil.which("prometheus", path=str(TOOLS))
        if binary is None:
            raise StartError("Prometheus is missing: `make tools` fetches it on Debian.")
        self._command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        self._command.append(f"--web.listen-address=127.0.0.1:{port}")

    def __enter__(self) -> Prometheus:
        self.configure()
        log = self._folder / "prometheus.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        try:
            wait_ready(self.url, self._process, log, START_SECONDS, "/-/ready")
        except StartError:
            stop(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        stop(self._process)

    def configure(self, without: str = "") -> None:
        """Write the configuration with the ports of this service, and have it read.

        Args:
            without: a job that is left out.
        """
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != without]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{self._ports[job['job_name']]}"]}]
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30, trust_env=False)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]["result"]
        return rows

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        with suppress(httpx.TransportError):
            return {row["metric"]["alertname"] for row in self.ask('ALERTS{alertstate="firing"}')}
        return set()
