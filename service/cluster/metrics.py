"""Metrics of every replica on Ray's exporter, where each name carries the prefix `ray_` and each series its replica.

| Name | Kind, labels |
| --- | --- |
| `omnitok_http_requests_total` | counter: route, method, code |
| `omnitok_http_request_duration_seconds` | histogram: route |
| `omnitok_http_requests_in_flight` | gauge: route |
| `omnitok_http_request_bytes_total`, `omnitok_http_response_bytes_total` | counter: route |
| `omnitok_media_results_total` | counter: kind, container, result |
| `omnitok_media_worker_restarts_total` | counter: reason |
| `omnitok_retries_total` | counter |
| `omnitok_cache_requests_total` | counter: result |
| `omnitok_tokenizer_calls_total` | counter: way (link, ray) |
| `omnitok_queue_requests`, `omnitok_queue_tokens` | gauge |
| `omnitok_batches_total` | counter: op, stop_reason |
| `omnitok_batch_splits_total` | counter: op, failure (memory, error) |
| `omnitok_batch_requests` | histogram: op |
| `omnitok_batch_duration_seconds` | histogram: op |
| `omnitok_late_kernels` | gauge |
| `omnitok_generate_queue_samples`, `omnitok_generate_slots_in_use` | gauge |
| `omnitok_generate_steps_total` | counter: kind |
| `omnitok_generate_step_duration_seconds` | histogram: kind |
| `omnitok_samples_generated_total`, `omnitok_tokens_generated_total` | counter: kind |
| `omnitok_jobs` | gauge: status |
| `omnitok_job_queue_age_seconds`, `omnitok_job_bytes` | gauge |
| `omnitok_tokens_encoded_total`, `omnitok_tokens_decoded_total`, `omnitok_frames_total` | counter |

Labels take values from fixed lists only: never ids, model names or anything that a caller wrote. The exporter's view
lags by up to ten seconds, and it forgets a gauge that has not been set for twenty: `refresh` sets each of them again.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any

from ray.serve import metrics

from service.cluster.autoscaling import LoadMeter
from service.jobs.records import JobCounts
from service.scheduling.batcher import Batch
from service.scheduling.executor import Failure
from service.types import Op

REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
BATCH_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
STEP_SECONDS = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]
BATCH_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


def _counter(name: str, description: str, *labels: str) -> metrics.Counter:
    tag_keys: Any = labels  # Ray annotates a tuple of exactly one
    return metrics.Counter(name, description, tag_keys)


class _Tallied:
    """A counter that is kept in this process until `flush`: one step of Ray's takes as long as 30 of a dictionary."""

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.counter, self._labels = _counter(name, description, *labels), labels
        self._new: Tally[tuple[str, ...]] = Tally()

    def add(self, amount: int = 1, *values: str) -> None:
        """Count, under the values of the labels."""
        self._new[values] += amount

    def flush(self) -> None:
        """Hand over what was counted since the last time."""
        new, self._new = self._new, Tally()
        for values, amount in (+new).items():
            self.counter.inc(amount, tags=dict(zip(self._labels, values, strict=True)))


class KernelMetrics:
    """The kernels of a replica with networks, tokenizers or generators."""

    def __init__(self) -> None:
        self._late = metrics.Gauge(
            "omnitok_late_kernels", "Triton kernels compiled or loaded since this replica was ready; 0 as it should be"
        )

    def late(self, count: int) -> None:
        """Report the number of kernels that were compiled or loaded since the replica was ready."""
        self._late.set(count)


class TokenizerMetrics:
    """The tokenizer tier's; an `in_process.WorkObserver`."""

    def __init__(self) -> None:
        self._queue_requests = metrics.Gauge("omnitok_queue_requests", "Requests that wait in this replica")
        self._queue_tokens = metrics.Gauge("omnitok_queue_tokens", "Latent positions that wait in this replica")
        self._batches = _Tallied("omnitok_batches_total", "Batches run", "op", "stop_reason")
        self._splits = _Tallied("omnitok_batch_splits_total", "Batches whose halves ran again", "op", "failure")
        self._batch_requests = metrics.Histogram("omnitok_batch_requests", "Requests per batch", BATCH_SIZES, ("op",))
        self._batch_seconds = metrics.Histogram(
            "omnitok_batch_duration_seconds", "Time of a batch", BATCH_SECONDS, ("op",)
        )
        self._encoded = _Tallied("omnitok_tokens_encoded_total", "Latent positions encoded")
        self._decoded = _Tallied("omnitok_tokens_decoded_total", "Latent positions decoded")
        self._frames = _Tallied("omnitok_frames_total", "Frames encoded or decoded")
        self._load = LoadMeter()
        self.queue(0, 0)
        self.refresh()

    def queue(self, requests: int, tokens: int) -> None:
        """Report the length of the queue."""
        self._now_queued = (requests, tokens)

    def refresh(self) -> None:
        """Hand everything to the exporter, the length of a queue that stands still too."""
        requests, tokens = self._now_queued
        self._queue_requests.set(requests)
        self._queue_tokens.set(tokens)
        for counter in (self._batches, self._splits, self._encoded, self._decoded, self._frames):
            counter.flush()

    def batch(self, batch: Batch, seconds: float) -> None:
        """Count a batch that took `seconds`."""
        op: dict[str, str] = {"op": batch.key.op}
        self._batches.add(1, batch.key.op, batch.stop_reason)
        self._batch_requests.observe(len(batch.items), tags=op)
        self._batch_seconds.observe(seconds, tags=op)
        self._load.ran(batch.cost, seconds)

    def load(self) -> dict[str, float]:
        """Return the load since the last time; see `LoadMeter.read`."""
        return self._load.read(self._now_queued[1])

    def split(self, batch: Batch, failure: Failure) -> None:
        """Count a batch whose halves ran again, since the whole failed."""
        self._splits.add(1, batch.key.op, failure)

    def done(self, op: Op, frames: int, tokens: int) -> None:
        """Count a request that has been answered."""
        self._frames.add(frames)
        if op not in ("decode", "decode_chunk"):
            self._encoded.add(tokens)
        if op not in ("encode", "encode_chunk"):
            self._decoded.add(tokens)


class GeneratorMetrics:
    """The generators'; an `in_process.GenerateObserver`."""

    def __init__(self) -> None:
        self._waiting = metrics.Gauge("omnitok_generate_queue_samples", "Samples that wait in this replica")
        self._slots = metrics.Gauge("omnitok_generate_slots_in_use", "Slots that sequences hold in this replica")
        self._steps = _counter("omnitok_generate_steps_total", "Steps of generators", "kind")
        self._step_seconds = metrics.Histogram(
            "omnitok_generate_step_duration_seconds", "Time of a step", STEP_SECONDS, ("kind",)
        )
        self._samples = _counter("omnitok_samples_generated_total", "Samples made", "kind")
        self._tokens = _counter("omnitok_tokens_generated_total", "Latent positions of the samples made", "kind")
        self.generating(0, 0)

    def generating(self, waiting: int, slots: int) -> None:
        """Report the sequences that wait and the slots in use."""
        self._now = (waiting, slots)
        self.refresh()

    def refresh(self) -> None:
        """Say again how long the queue is, so that a queue that stands still stays in sight."""
        waiting, slots = self._now
        self._waiting.set(waiting)
        self._slots.set(slots)

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        """Count steps, and observe the time of the latest."""
        self._steps.inc(steps, tags={"kind": kind})
        self._step_seconds.observe(seconds, tags={"kind": kind})

    def generated(self, kind: str, codes: int) -> None:
        """Count a sample of so many latent positions."""
        self._samples.inc(tags={"kind": kind})
        self._tokens.inc(codes, tags={"kind": kind})


class JobMetrics:
    """The jobs'; their owner reports them every few seconds."""

    def __init__(self) -> None:
        self._jobs = metrics.Gauge("omnitok_jobs", "Jobs that are kept", ("status",))
        self._age = metrics.Gauge("omnitok_job_queue_age_seconds", "Age of the job that has waited longest")
        self._bytes = metrics.Gauge("omnitok_job_bytes", "Content of jobs, and what came with those that wait")

    def report(self, counts: JobCounts) -> None:
        """Report the state of the store."""
        for status, count in counts.by_status.items():
            self._jobs.set(count, tags={"status": status})
        self._age.set(counts.oldest_queued_seconds)
        self._bytes.set(counts.content_bytes)


class IngressMetrics:
    """The HTTP tier's; a `types.HttpMetrics`."""

    def __init__(self) -> None:
        self._requests = _Tallied("omnitok_http_requests_total", "Requests answered", "route", "method", "code")
        self._seconds = metrics.Histogram(
            "omnitok_http_request_duration_seconds", "Time of a request", REQUEST_SECONDS, ("route",)
        )
        self._in_flight = metrics.Gauge("omnitok_http_requests_in_flight", "Requests not yet answered", ("route",))
        self._bytes_in = _Tallied("omnitok_http_request_bytes_total", "Bytes of request bodies", "route")
        self._bytes_out = _Tallied("omnitok_http_response_bytes_total", "Bytes of response bodies", "route")
        self._media = _counter("omnitok_media_results_total", "Files decoded or refused", "kind", "container", "result")
        self._restarts = _counter("omnitok_media_worker_restarts_total", "Media workers replaced", "reason")
        self._retries = _Tallied("omnitok_retries_total", "Calls repeated because a tokenizer replica was lost")
        self._calls = _counter("omnitok_tokenizer_calls_total", "Calls over the link or through Ray", "way")
        self._cached = _counter("omnitok_cache_requests_total", "Pure calls, by what the cache knew of them", "result")
        self._cached_seen: Tally[str] = Tally()
        self._calls_seen: Tally[str] = Tally()
        self._now_in_flight: Tally[str] = Tally()
        self._media_seen: Tally[tuple[str, str, str]] = Tally()
        self._restarts_seen: Tally[str] = Tally()

    def observe(self, route: str, method: str, code: str, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request that is over."""
        self._requests.add(1, route, method, code)
        self._seconds.observe(seconds, tags={"route": route})
        self._bytes_in.add(bytes_in, route)
        self._bytes_out.add(bytes_out, route)

    def in_flight(self, route: str, change: int) -> None:
        """Count a request that began (+1) or ended (-1)."""
        self._now_in_flight[route] += change

    def refresh(self) -> None:
        """Hand everything to the exporter, requests that take long too."""
        for route, count in self._now_in_flight.items():
            self._in_flight.set(count, tags={"route": route})
        for counter in (self._requests, self._bytes_in, self._bytes_out, self._retries):
            counter.flush()

    def retried(self) -> None:
        """Count a call that is repeated because its replica was lost."""
        self._retries.add()

    def called(self, ways: Mapping[str, int]) -> None:
        """Take over how many calls of tokenizers took each way since the start."""
        for way, count in ways.items():
            if more := count - self._calls_seen[way]:
                self._calls.inc(more, tags={"way": way})
                self._calls_seen[way] = count

    def replayed(self, results: Mapping[str, int]) -> None:
        """Take over how many pure calls the cache answered, and how many it did not, since the start."""
        for result, count in results.items():
            if more := count - self._cached_seen[result]:
                self._cached.inc(more, tags={"result": result})
                self._cached_seen[result] = count

    def media(self, results: Mapping[tuple[str, str, str], int], restarts: Mapping[str, int]) -> None:
        """Take over what the media pool has counted since it started.

        Args:
            results: (kind, container, result) -> files.
            restarts: reason -> workers replaced.
        """
        for labels, count in results.items():
            if more := count - self._media_seen[labels]:
                self._media.inc(more, tags=dict(zip(("kind", "container", "result"), labels, strict=True)))
                self._media_seen[labels] = count
        for reason, count in restarts.items():
            if more := count - self._restarts_seen[reason]:
                self._restarts.inc(more, tags={"reason": reason})
                self._restarts_seen[reason] = count
