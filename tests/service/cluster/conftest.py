"""One real cluster for the whole session: two replicas of each tier, a tiny bundle, ports of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from model import CONFIGS, OmniTokenizer, save_bundle
from service.settings import Settings

os.environ["RAY_metrics_report_interval_ms"] = "1000"  # the exporter's view would lag ten seconds otherwise


@dataclass(frozen=True)
class Service:
    """The running service as its callers and its operator see it."""

    settings: Settings
    bundle: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def metrics(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Samples of one metric: labels -> value."""
        samples = {}
        for line in httpx.get(f"http://127.0.0.1:{self.settings.metrics_port}/metrics", timeout=10).text.splitlines():
            if line.startswith(f"ray_{name}{{"):
                labels, _, value = line.partition("{")[2].rpartition("} ")
                pairs = (part.partition("=") for part in labels.split(","))
                samples[frozenset((key, text.strip('"')) for key, _, text in pairs)] = float(value)
        return samples

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of the replicas of one deployment."""
        listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        mark = f"ray::ServeReplica:omnitok:{deployment}"
        return {int(line.split()[0]) for line in listing.splitlines() if line.split(None, 1)[1].startswith(mark)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(path, OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    return path


@pytest.fixture(scope="session")
def service(bundle: Path) -> Iterator[Service]:
    from service.deployment import cluster, deploy

    settings = Settings(
        bundles=(bundle,),
        port=free_port(),
        metrics_port=free_port(),
        tokenizer_replicas=2,
        media_workers=1,
        torch_threads=1,
    )
    with cluster(settings, logical_cpus=2, object_bytes=80 * 2**20):
        deploy(settings)
        yield Service(settings, bundle)
