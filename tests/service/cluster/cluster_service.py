"""The running service as its callers and its operator see it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import waiting

from model.bundle import load_bundle
from model.tokenizer.tokenizer import OmniTokenizer
from service.settings import Settings
from service.types import ModelCard

Labels = frozenset[tuple[str, str]]
eventually = partial(waiting.eventually, seconds=180, pause=0.2)  # each look asks other processes


@dataclass(frozen=True)
class Service:
    """A service on a real cluster, with HTTP and metrics on ports of its own."""

    settings: Settings
    bundle: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @cached_property
    def tokenizer(self) -> OmniTokenizer:
        """The network that the replicas run, in this process."""
        return load_bundle(self.bundle).tokenizer

    @cached_property
    def card(self) -> ModelCard:
        """Return the service's description of its default bundle."""
        answer: dict[str, Any] = httpx.get(f"{self.url}/models", timeout=60).json()
        return ModelCard(**answer["models"][0])

    def metrics(self, name: str) -> dict[Labels, float]:
        """Samples of one metric as the exporter shows them now."""
        text = httpx.get(f"http://127.0.0.1:{self.settings.metrics_port}/metrics", timeout=60).text
        samples: dict[Labels, float] = {}
        for line in text.splitlines():
            if line.startswith((f"omnitok_{name}{{", f"omnitok_{name} ")):
                key, _, value = line.rpartition(" ")
                labels = key.partition("{")[2].rstrip("}")
                pairs = (part.partition("=") for part in labels.split(",") if part)
                samples[frozenset((key, text.strip('"')) for key, _, text in pairs)] = float(value)
        return samples

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples that carry these labels."""
        return sum(value for key, value in self.metrics(name).items() if labels.items() <= dict(key).items())

    def idle(self) -> None:
        """Wait until every request has ended and is counted."""
        eventually(lambda: self.total("http_requests_in_flight") == 0)

    def processes(self, deployment: str) -> set[int]:
        """Process ids of the replicas of one deployment, among the descendants of this process only."""
        listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()]
        ours = {str(os.getpid())}
        while found := {pid for pid, parent, _ in rows if parent in ours} - ours:
            ours |= found
        title = f"ray::ServeReplica:omnitok:{deployment}"
        return {int(pid) for pid, _, command in rows if pid in ours and command.startswith(title)}
