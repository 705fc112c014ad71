"""Metrics of every replica, whatever it does, and of the owner of the jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping

from service.jobs.records import STATUSES, JobCounts
from service.metrics.definitions import counter, gauge


class ReplicaMetrics:
    """The life of one replica.

    Args:
        deployment: what it belongs to.
        wanted: the least number of replicas of each deployment.
    """

    def __init__(self, deployment: str, wanted: Mapping[str, int]) -> None:
        self._deployment = deployment
        self._starts, self._replicas = counter("replica_starts"), gauge("replicas")
        least = gauge("replicas_wanted")
        for name, count in wanted.items():
            least.labels(name).set(count)
            self._replicas.labels(name)

    def ready(self) -> None:
        """Count this replica."""
        self._starts.labels(self._deployment).inc()
        self._replicas.labels(self._deployment).set(1)


class JobMetrics:
    """The jobs; their owner reports them every few seconds.

    Args:
        max_bytes: content that may be kept.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self._jobs = gauge("jobs")
        for status in STATUSES:
            self._jobs.labels(status)
        self._age, self._bytes = gauge("job_queue_age_seconds"), gauge("job_bytes")
        gauge("job_bytes_limit").set(max_bytes)

    def report(self, counts: JobCounts) -> None:
        """Report the state of the store."""
        for status in STATUSES:
            self._jobs.labels(status).set(counts.by_status.get(status, 0))
        waits = counts.oldest_queued_seconds
        self._age.set(time.time() - waits if waits else 0.0)
        self._bytes.set(counts.content_bytes)
