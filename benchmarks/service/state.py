"""The state of a running service: its processes with their memory and descriptors, and what is in flight or waits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.service.cpu import snapshot

ARENA = "omnitok-arena"
GAUGES = ("http_requests_in_flight", "queue_requests", "generate_queue_samples", "generate_slots_in_use")


@dataclass(frozen=True)
class State:
    """One moment.

    Args:
        processes: by name.
        descriptors: by name of the process, all of that name together.
        arenas: mappings of shared memory between the tiers, all processes together.
        resident: bytes by process id and name.
        gauges: values by name (`GAUGES`), all replicas together.
    """

    processes: Counter[str]
    descriptors: Counter[str]
    arenas: int
    resident: dict[tuple[int, str], int]
    gauges: dict[str, float]


def look(root: int, metrics_url: str) -> State:
    """Return the state of a service now.

    Args:
        root: process id whose tree it is.
        metrics_url: of Ray's exporter, which lags by up to ten seconds.
    """
    processes: Counter[str] = Counter()
    descriptors: Counter[str] = Counter()
    resident: dict[tuple[int, str], int] = {}
    arenas = 0
    for pid, process in snapshot(root).items():
        home = Path(f"/proc/{pid}")
        with suppress(OSError):
            status = (home / "status").read_text()
            processes[process.name] += 1
            descriptors[process.name] += len(list((home / "fd").iterdir()))
            arenas += (home / "maps").read_text().count(ARENA)
            if found := re.search(r"VmRSS:\s+(\d+) kB", status):
                resident[pid, process.name] = 1024 * int(found[1])
    return State(processes, descriptors, arenas, resident, gauges(metrics_url))


def gauges(metrics_url: str) -> dict[str, float]:
    """Return the sums of gauges over all replicas of a node."""
    text = httpx.get(metrics_url, timeout=10, trust_env=False).text
    return {name: sum(_samples(text, name)) for name in GAUGES}


def _samples(text: str, name: str) -> Iterator[float]:
    for line in text.splitlines():
        if line.startswith(f"omnitok_{name}{{"):
            yield float(line.rpartition(" ")[2])
