"""A simulated cluster of tokenizer replicas: the project's meters and policy, and Ray Serve's delays, on a clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from benchmarks.sizing.loads import Scenario
from service.cluster.autoscaling import BUSY_TARGET, LOOK_BACK_SECONDS, LoadMeter, tokenizer_scale, wanted_replicas
from service.settings import Settings

REPORT_SECONDS = 10  # Ray's metrics_interval_s
REPORTS = int(LOOK_BACK_SECONDS) // REPORT_SECONDS
POSITIONS = 1_000_000  # a second of one replica; only shares matter


class Clock:
    """Seconds, set by whoever simulates."""

    now = 0.0

    def __call__(self) -> float:
        """Return them."""
        return self.now


@dataclass
class Replica:
    """A replica: ready from a moment on, with a queue."""

    ready: int
    meter: LoadMeter
    queued: float = 0.0
    reports: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=REPORTS))


@dataclass(frozen=True)
class Second:
    """A second: the load, replicas that are ready and wanted, what was refused in replicas, and the longest wait."""

    load: float
    ready: int
    target: int
    refused: float
    wait: float


def simulate(scenario: Scenario, start_seconds: int, most: int) -> list[Second]:
    """Return what happens, second by second.

    Args:
        scenario: the load.
        start_seconds: from the decision to a replica that serves, its machine included.
        most: replicas.
    """
    settings = Settings(tokenizer_replicas=scenario.least, max_tokenizer_replicas=most)
    config: AutoscalingConfig = tokenizer_scale(settings)["autoscaling_config"]
    clock = Clock()
    replicas = [
        Replica(0, LoadMeter(clock)) for _ in range(max(scenario.least, math.ceil(scenario.load(0) / BUSY_TARGET)))
    ]
    state: dict[str, Any] = {}
    seconds = []
    for now in range(scenario.seconds):
        clock.now = float(now)
        ready = [one for one in replicas if one.ready <= now]
        load = scenario.load(now)
        refused, wait = _serve(ready, load * POSITIONS, settings.max_queue_seconds)
        if now % REPORT_SECONDS == 0:
            for one in ready:
                one.reports.append(one.meter.read(int(one.queued)))
        target = _decide(ready, len(replicas), config, state, now)
        while len(replicas) < target:
            replicas.append(Replica(now + start_seconds, LoadMeter(clock)))
        if len(replicas) > target:  # those that still start go first
            replicas = sorted(replicas, key=lambda one: one.ready)[:target]
        seconds.append(Second(load, len(ready), target, refused / POSITIONS, wait))
    return seconds


def _serve(ready: Sequence[Replica], offered: float, queue_seconds: float) -> tuple[float, float]:
    """Let a second pass, and return positions refused and the longest wait."""
    refused, share = 0.0, offered / len(ready)
    for one in ready:
        one.queued += share
        done = min(one.queued, POSITIONS)
        one.queued -= done
        if done:
            one.meter.ran(int(done), done / POSITIONS)
        over = max(0.0, one.queued - queue_seconds * POSITIONS)
        one.queued -= over
        refused += over
    return refused, max(one.queued for one in ready) / POSITIONS


def _decide(ready: Sequence[Replica], current: int, config: AutoscalingConfig, state: dict[str, Any], now: int) -> int:
    metrics: dict[str, dict[int, float]] = {}
    for number, one in enumerate(ready):
        for name in one.reports[0] if one.reports else ():
            metrics.setdefault(name, {})[number] = sum(values[name] for values in one.reports) / len(one.reports)
    context: Any = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=current)
    wanted, _ = wanted_replicas(context)
    target, changed = _apply_delay_logic(wanted, current, config, state, now)
    state.update(changed)
    return min(config.max_replicas, max(config.min_replicas, target))
