"""The metrics of the service: each is defined here once. Labels take values from closed lists only.

Never a caller's words, ids or file names: whoever sends them would decide how many series there are. Counters and
histograms have no label of a replica, so that the series of dead ones do not pile up; gauges go with their process.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, TypeVar, get_args

from prometheus_client import Counter, Gauge, Histogram

from service.errors import PROBLEMS
from service.finished_request import CLIENT_CLOSED_STATUS
from service.types import Op

Made = TypeVar("Made", Counter, Gauge, Histogram)

PREFIX = "omnitok_"
BUCKET_FACTOR = 1.15  # a quantile within a bucket is at most so far from the truth
DEADLINE_SECONDS = 400.0  # Ray ends every request by then
WORK_ROUTES = (
    *("/encode", "/decode", "/reconstruct", "/vae/encode", "/vae/decode"),
    *("/generate", "/images/generations", "/videos", "/jobs"),
)
OTHER_ROUTE = "other"
STAGES = ("decode", "queue", "compute", "render")
KINDS = ("lm", "diffusion")
OPS: tuple[str, ...] = get_args(Op)
RESTART_REASONS = ("crash", "forbidden", "killed", "cpu", "timeout", "memory", "cancelled", "recycled")
DEPLOYMENTS = ("Ingress", "Tokenizer", "Generator", "JobOwner")


def exponential(first: float, last: float) -> tuple[float, ...]:
    """Return the bounds of buckets, each so many times the one before, rounded to three digits."""
    bounds = [first]
    while bounds[-1] < last:
        bounds.append(float(f"{bounds[-1] * BUCKET_FACTOR:.3g}"))
    return tuple(bounds)


OBJECTIVE_SECONDS = (1.0, 5.0, 10.0, 60.0)  # bounds that rules may name; deploy/prometheus/recording.yml counts by them
SECONDS = tuple(sorted({*exponential(0.001, DEADLINE_SECONDS), *OBJECTIVE_SECONDS}))
STEP_SECONDS = exponential(0.0001, 5.0)
BATCH_SIZES = tuple(float(2**power) for power in range(8))
RATIOS = tuple(round(0.05 * part, 2) for part in range(1, 21))


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: without the prefix; that of a counter without `_total`.
        kind: as Prometheus has it. An "age" is a gauge: processes set the time when it began, and the exporter shows
            the seconds that have passed since, at the moment it is asked.
        help: one line for people.
        labels: their names.
        known: values of each label, where all are known ahead: these series exist from the start at 0, so that
            `increase` sees the first event.
        buckets: of a histogram.
        mode: of a gauge: how the values of living processes add up.
    """

    name: str
    kind: Literal["counter", "gauge", "age", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] | None = None
    buckets: tuple[float, ...] = ()
    mode: Literal["livesum", "livemax"] = "livesum"

    @property
    def full_name(self) -> str:
        """Return the name with the prefix, as samples carry it, without the suffixes of a histogram."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


def _counter(name: str, help: str, **known: Sequence[str]) -> Metric:
    return Metric(name, "counter", help, tuple(known), tuple(tuple(values) for values in known.values()))


def _histogram(name: str, help: str, buckets: tuple[float, ...], **known: Sequence[str]) -> Metric:
    return Metric(name, "histogram", help, tuple(known), tuple(tuple(values) for values in known.values()), buckets)


def _by_replica(name: str, help: str) -> Metric:
    return Metric(name, "gauge", help, ("replica",))


ROUTES = (*WORK_ROUTES, OTHER_ROUTE)
STATUSES = sorted({"200", "202", str(CLIENT_CLOSED_STATUS), *(str(status) for status, _ in PROBLEMS.values())})

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # the HTTP tier
        Metric(
            "http_requests",
            "counter",
            "Requests answered; 499 if the client left first or its own deadline, shorter than the service's, passed",
            ("route", "method", "code"),
            (WORK_ROUTES, ("POST",), tuple(STATUSES)),
        ),
        _histogram(
            "http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer",
            SECONDS,
            route=ROUTES,
        ),
        Metric("http_requests_in_flight", "gauge", "Requests begun and not yet answered", ("route",), (ROUTES,)),
        _counter("http_request_bytes", "Bytes of request bodies", route=ROUTES),
        _counter("http_response_bytes", "Bytes of response bodies", route=ROUTES),
        _counter("http_problems", "Refusals and failures by problem", problem=tuple(PROBLEMS)),
        _histogram("stage_duration_seconds", "Time of a request in one of its stages", SECONDS, stage=STAGES),
        _counter("retries", "Calls repeated because a replica was lost"),
        _counter("cache_requests", "Pure calls by what the cache knew of them", result=("hit", "collapsed", "miss")),
        # the way to the tokenizers
        _counter("tokenizer_calls", "Calls of tokenizers over the link or through Ray", way=("link", "ray")),
        _by_replica("link_calls", "Calls over the link that are not over"),
        _by_replica("link_waiting", "Calls over the link that wait for a tokenizer to come back"),
        _by_replica("link_tokenizers", "Tokenizer processes of this node that the ingress is linked with"),
        _by_replica("link_free_bytes", "Free shared memory of the link"),
        _by_replica("router_waiting", "Items that wait in the ingress for a call through Ray"),
        # media
        Metric("media_results", "counter", "Files decoded, written or refused", ("kind", "container", "result")),
        _counter("media_worker_restarts", "Media workers replaced", reason=RESTART_REASONS),
        _by_replica("media_workers", "Media workers of the ingress"),
        _by_replica("media_workers_busy", "Media workers that have a task"),
        _by_replica("media_queue_files", "Files that wait for a media worker"),
        Metric("media_queue_age_seconds", "age", "Age of the file that has waited longest; 0 if none", ("replica",)),
        # tokenizers
        _by_replica("queue_requests", "Requests that wait in a tokenizer replica"),
        _by_replica("queue_tokens", "Latent positions that wait in a tokenizer replica"),
        _by_replica("queue_tokens_limit", "Latent positions that may wait in a tokenizer replica"),
        Metric("queue_age_seconds", "age", "Age of the request that has waited longest; 0 if none", ("replica",)),
        _histogram("queue_wait_seconds", "Time that a request waited for its batch", SECONDS, op=OPS),
        _counter("batches", "Batches run", op=OPS, stop_reason=("drained", "count", "budget")),
        _counter("batch_splits", "Batches whose halves ran again", op=OPS, failure=("memory", "error")),
        _histogram("batch_requests", "Requests of a batch", BATCH_SIZES, op=OPS),
        _histogram("batch_fill_ratio", "Latent positions of a batch, as a share of its budget", RATIOS, op=OPS),
        _histogram("batch_duration_seconds", "Time of a batch", SECONDS, op=OPS),
        _counter("late_kernels", "Triton kernels compiled or loaded since a replica was ready; 0 as it should be"),
        # known values of `model` come with the bundles that are served
        Metric("tokens_encoded", "counter", "Latent positions encoded", ("model",)),
        Metric("tokens_decoded", "counter", "Latent positions decoded", ("model",)),
        Metric("frames", "counter", "Frames encoded or decoded", ("model",)),
        Metric("model_requests", "counter", "Requests that a tokenizer answered", ("model", "op")),
        Metric("model_compute_seconds", "counter", "Time of batches", ("model", "op")),
        # generators
        _by_replica("generate_queue_samples", "Samples that wait in a replica"),
        Metric("generate_queue_age_seconds", "age", "Age of the sample that waited longest; 0 if none", ("replica",)),
        _by_replica("generate_slots", "Slots for sequences of a replica"),
        _by_replica("generate_slots_in_use", "Slots that sequences hold"),
        _by_replica("generate_cache_positions", "Positions that the key-value caches of a replica hold at most"),
        _by_replica("generate_cache_positions_in_use", "Positions of the key-value caches that hold a token"),
        _histogram("generate_wait_seconds", "Time that a sample waited for its slots", SECONDS, kind=KINDS),
        _counter("generate_steps", "Steps of generators", kind=KINDS),
        _histogram("generate_step_duration_seconds", "Time of a step", STEP_SECONDS, kind=KINDS),
        Metric("samples_generated", "counter", "Samples made", ("kind", "model")),
        Metric("tokens_generated", "counter", "Latent positions of the samples made", ("kind", "model")),
        # jobs
        Metric("jobs", "gauge", "Jobs that are kept", ("status",)),
        Metric("job_queue_age_seconds", "age", "Age of the job that has waited longest; 0 if none"),
        Metric("job_bytes", "gauge", "Content of jobs, and what came with those that wait"),
        Metric("job_bytes_limit", "gauge", "Content of jobs that may be kept"),
        # every replica
        Metric("replicas", "gauge", "Living replicas of this node", ("deployment",)),
        Metric(
            "replicas_wanted",
            "gauge",
            "The least number of replicas of the whole cluster",
            ("deployment",),
            mode="livemax",
        ),
        _counter("replica_starts", "Replicas that became ready", deployment=DEPLOYMENTS),
    )
}
AGES = frozenset(metric.full_name for metric in METRICS.values() if metric.kind == "age")


def begun(instant: float | None) -> float:
    """Return the value of an age that began at an instant of the monotonic clock, or of none."""
    return 0.0 if instant is None else time.time() - (time.monotonic() - instant)


def _at_zero(made: Made, metric: Metric) -> Made:
    # To find a series costs as much as to count, and a request counts in fifteen. Their labels are few.
    made.labels = cache(made.labels)  # type: ignore[method-assign]
    for values in known_series(metric):
        made.labels(*values)
    return made


def counter(name: str) -> Counter:
    """Return a counter of this process, its known series at 0."""
    metric = METRICS[name]
    return _at_zero(Counter(PREFIX + name, metric.help, metric.labels, registry=None), metric)


def gauge(name: str) -> Gauge:
    """Return a gauge of this process, or an age; it ends with the process."""
    metric = METRICS[name]
    return _at_zero(
        Gauge(PREFIX + name, metric.help, metric.labels, registry=None, multiprocess_mode=metric.mode), metric
    )


def histogram(name: str) -> Histogram:
    """Return a histogram of this process, its known series at 0."""
    metric = METRICS[name]
    return _at_zero(Histogram(PREFIX + name, metric.help, metric.labels, registry=None, buckets=metric.buckets), metric)


def observe_each(histogram: Histogram, amounts: Sequence[float]) -> None:
    """Observe amounts together, since a batch has many and each alone costs as much as its place in the queue.

    The public `observe` of prometheus_client 0.26 takes one amount: 1.4 µs each in a batch of 64, and 0.2 µs here.
    """
    histogram._sum.inc(sum(amounts))
    for bucket, count in Tally(bisect_left(histogram._upper_bounds, amount) for amount in amounts).items():
        histogram._buckets[bucket].inc(count)


def known_series(metric: Metric) -> Iterator[tuple[str, ...]]:
    """Yield the values of the labels of those series that are known ahead."""
    if metric.labels and metric.known is not None:
        yield from product(*metric.known)
