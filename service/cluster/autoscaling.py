"""The number of tokenizer replicas by their own load: Ray Serve counts calls of handles, and the link makes none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from service.drain_rate import DrainRate
from service.settings import Settings

BUSY, WAIT = "busy", "wait_seconds"
BUSY_TARGET = 0.8  # a replica that always computes has no room for a burst
BACKLOG_SECONDS = 2.0  # of waiting work count as one more replica that always computes
LOOK_BACK_SECONDS = 20.0  # two reports of each replica
UP_SECONDS, DOWN_SECONDS = 10.0, 300.0  # loading weights takes longer than a burst lasts
MOST_CARRIED_SECONDS = 60.0


class LoadMeter:
    """The load of one replica, whichever way its work came.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._rate = clock, DrainRate()
        self._seconds, self._read_at = 0.0, clock()

    def ran(self, positions: int, seconds: float) -> None:
        """Count a batch that has ended."""
        self._rate.add(positions, seconds)
        # A batch longer than the time between two readings counts in several of them.
        self._seconds = min(MOST_CARRIED_SECONDS, self._seconds + seconds)

    def read(self, queued: int) -> dict[str, float]:
        """Return the busy share of the time since the last reading, and the seconds that the queue will take.

        Args:
            queued: latent positions that wait.
        """
        passed, self._read_at = self._clock() - self._read_at, self._clock()
        spent = min(passed, self._seconds)
        self._seconds -= spent
        return {BUSY: spent / passed if passed > 0 else 0.0, WAIT: self._rate.seconds(queued) or 0.0}


def wanted_replicas(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Return the replicas that the load of the last seconds asks for, and no state. Serve bounds and delays them."""
    metrics = context.aggregated_metrics or {}
    if not metrics.get(BUSY):  # nobody has reported yet
        return context.target_num_replicas, {}
    work = sum(metrics[BUSY].values()) + sum(metrics.get(WAIT, {}).values()) / BACKLOG_SECONDS
    return math.ceil(work / BUSY_TARGET - 1e-6), {}


def tokenizer_scale(settings: Settings) -> dict[str, Any]:
    """Return the options of a deployment that say how many tokenizer replicas there are."""
    if settings.max_tokenizer_replicas is None:
        return {"num_replicas": settings.tokenizer_replicas}
    config = AutoscalingConfig(
        min_replicas=settings.tokenizer_replicas,
        max_replicas=settings.max_tokenizer_replicas,
        look_back_period_s=LOOK_BACK_SECONDS,
        upscale_delay_s=UP_SECONDS,
        downscale_delay_s=DOWN_SECONDS,
        policy=AutoscalingPolicy(policy_function=wanted_replicas),
    )
    return {"autoscaling_config": config}
