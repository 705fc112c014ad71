"""Metrics of the HTTP tier."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping

from service.finished_request import FinishedRequest
from service.metrics.definitions import OTHER_ROUTE, STAGES, WORK_ROUTES, counter, gauge, histogram


class IngressMetrics:
    """The metrics of one ingress replica; an `api.middleware.HttpMetrics`.

    Args:
        replica: its name.
    """

    def __init__(self, replica: str = "") -> None:
        self._requests = counter("http_requests")
        self._seconds = histogram("http_request_duration_seconds")
        self._in_flight = gauge("http_requests_in_flight")
        self._bytes_in, self._bytes_out = counter("http_request_bytes"), counter("http_response_bytes")
        self._problems = counter("http_problems")
        stages = histogram("stage_duration_seconds")
        self._stages = {f"{stage}_ms": stages.labels(stage) for stage in STAGES}
        self._retries = counter("retries")
        self._calls, self._cached = counter("tokenizer_calls"), counter("cache_requests")
        self._media, self._restarts = counter("media_results"), counter("media_worker_restarts")
        self._cached_seen: Tally[str] = Tally()
        self._media_seen: Tally[tuple[str, str, str]] = Tally()
        self._restarts_seen: Tally[str] = Tally()
        self._gauges = {
            name: gauge(name).labels(replica)
            for name in (
                *("link_calls", "link_waiting", "link_tokenizers", "link_free_bytes", "router_waiting"),
                *("media_workers", "media_workers_busy", "media_queue_files", "media_queue_age_seconds"),
            )
        }

    def observe(self, request: FinishedRequest) -> None:
        """Count a request that is over."""
        self._requests.labels(request.route, request.method, str(request.status)).inc()
        known = _known(request.route)
        self._seconds.labels(known).observe(request.seconds)
        if request.bytes_in:
            self._bytes_in.labels(known).inc(request.bytes_in)
        self._bytes_out.labels(known).inc(request.bytes_out)
        if request.problem is not None:
            self._problems.labels(request.problem).inc()
        for name, stage in self._stages.items():
            if (milliseconds := request.notes.get(name)) is not None:
                stage.observe(milliseconds / 1000)

    def in_flight(self, route: str, change: int) -> None:
        """Count a request that began (+1) or ended (-1)."""
        self._in_flight.labels(_known(route)).inc(change)

    def retried(self) -> None:
        """Count a call that is repeated because its replica was lost."""
        self._retries.inc()

    def called(self, way: str, items: int = 1) -> None:
        """Count calls of a tokenizer, by their way."""
        self._calls.labels(way).inc(items)

    def replayed(self, results: Mapping[str, int]) -> None:
        """Take over how many pure calls the cache answered, and how many it did not, since the start."""
        for result, count in results.items():
            if more := count - self._cached_seen[result]:
                self._cached.labels(result).inc(more)
                self._cached_seen[result] = count

    def media(self, results: Mapping[tuple[str, str, str], int], restarts: Mapping[str, int]) -> None:
        """Take over what the media pool has counted since it started.

        Args:
            results: (kind, container, result) -> files.
            restarts: reason -> workers replaced.
        """
        for labels, count in results.items():
            if more := count - self._media_seen[labels]:
                self._media.labels(*labels).inc(more)
                self._media_seen[labels] = count
        for reason, count in restarts.items():
            if more := count - self._restarts_seen[reason]:
                self._restarts.labels(reason).inc(more)
                self._restarts_seen[reason] = count

    def state(self, **values: float) -> None:
        """Report what waits and runs in this replica, by the names of gauges."""
        for name, value in values.items():
            self._gauges[name].set(value)


def _known(route: str) -> str:
    return route if route in WORK_ROUTES else OTHER_ROUTE
