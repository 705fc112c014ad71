"""The counts of each tier, as the exporter shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from service.errors import PROBLEMS
from service.finished_request import FinishedRequest
from service.jobs.records import JobCounts
from service.metrics.collectors import ProcessesCollector
from service.metrics.definitions import SECONDS, histogram, observe_each
from service.metrics.generator import GeneratorMetrics
from service.metrics.http import IngressMetrics
from service.metrics.replica import JobMetrics, ReplicaMetrics
from service.metrics.tokenizer import KernelMetrics, TokenizerMetrics
from service.scheduling.batcher import Batch
from service.scheduling.item import Item
from service.types import TokenizerKey

KEY = TokenizerKey("m", "encode", "pixels", (1, 8, 8))


def test_totals_of_the_pool_are_counted_once(read: Callable[..., float]) -> None:
    """The pool counts since its start."""
    ingress = IngressMetrics()
    ok, corrupt = ("decode", "png", "ok"), ("decode", "png", "corrupt-media")
    for results, restarts in (
        ({ok: 3}, {"crash": 1}),
        ({ok: 3}, {"crash": 1}),
        ({ok: 5, corrupt: 1}, {"crash": 2, "timeout": 1}),
    ):
        ingress.media(results, restarts)
    assert read("media_results_total", container="png", result="ok") == 5
    assert read("media_results_total", result="corrupt-media") == 1
    assert read("media_worker_restarts_total", reason="crash") == 2
    assert read("media_worker_restarts_total", reason="timeout") == 1


def test_a_request_is_counted_with_its_bytes_seconds_stages_and_problem(read: Callable[..., float]) -> None:
    ingress = IngressMetrics()
    for change in (1, 1, -1):
        ingress.in_flight("/encode", change)
    notes = {"model": "m", "queue_ms": 20.0, "compute_ms": 100.0}
    ingress.observe(FinishedRequest("/encode", "POST", 200, 0.25, 100, 30, None, notes))
    ingress.observe(FinishedRequest("/encode", "POST", 503, 0.5, 0, 7, "overloaded", {}))
    ingress.observe(FinishedRequest("/health", "GET", 200, 0.001, 0, 7, None, {}))
    assert read("http_requests_in_flight", route="/encode") == 1
    assert read("http_requests_total", route="/encode", method="POST", code="200") == 1
    assert read("http_requests_total", route="/health") == 1
    assert read("http_request_duration_seconds_sum", route="/encode") == 0.75
    assert read("http_request_duration_seconds_count", route="other") == 1
    assert read("http_request_bytes_total", route="/encode") == 100
    assert read("http_response_bytes_total", route="/encode") == 37
    assert read("http_problems_total", problem="overloaded") == 1
    assert read("stage_duration_seconds_sum", stage="queue") == 0.02
    assert read("stage_duration_seconds_count", stage="compute") == 1
    assert read("stage_duration_seconds_count", stage="render") == 0


def test_rare_events_have_series_before_they_happen(folder: Path, read: Callable[..., float]) -> None:
    """`increase` does not see the first event of a series that begins with it."""
    IngressMetrics()
    TokenizerMetrics(models=["m"])
    GeneratorMetrics(models={"g": "lm"})
    collected = ProcessesCollector(folder).collect()
    samples = [one for metric in collected for one in metric.samples if one.name == "omnitok_http_problems_total"]
    assert {sample.labels["problem"]: sample.value for sample in samples} == dict.fromkeys(PROBLEMS, 0.0)
    assert read("http_requests_total", route="/generate", code="504") == 0
    assert read("media_worker_restarts_total", reason="forbidden") == 0
    assert read("batch_splits_total", op="decode", failure="memory") == 0
    assert read("tokens_encoded_total", model="m") == read("samples_generated_total", model="g") == 0


def test_the_state_of_an_ingress_is_shown_by_replica(read: Callable[..., float]) -> None:
    IngressMetrics("abc").state(media_queue_files=3, media_queue_age_seconds=time.time() - 5, link_calls=2)
    assert read("media_queue_files", replica="abc") == 3
    assert 5 <= read("media_queue_age_seconds", replica="abc") < 60
    assert read("link_calls", replica="abc") == 2


def test_batches_and_work_are_counted(read: Callable[..., float]) -> None:
    ran: list[tuple[int, float]] = []
    tokenizer = TokenizerMetrics("t", ["m"], 1000, lambda *batch: ran.append(batch))
    items = (Item(0, KEY, 1, 1.0), Item(1, KEY, 1, 1.0))
    tokenizer.batch(Batch(KEY, items, 2, "drained", 0.0, 8), 0.5, [0.125, 1.0])
    KernelMetrics().late(3)
    tokenizer.done("encode", 5, 40, "m", 1)
    tokenizer.done("decode", 9, 60, "m", 1)
    tokenizer.done("reconstruct", 1, 7, "m", 1)
    assert ran == [(2, 0.5)]
    assert read("batches_total", op="encode", stop_reason="drained") == 1
    assert read("batch_requests_sum", op="encode") == 2
    assert read("batch_fill_ratio_sum", op="encode") == 0.25
    assert read("batch_duration_seconds_sum", op="encode") == 0.5
    assert read("queue_wait_seconds_sum", op="encode") == 1.125
    assert (
        read("queue_wait_seconds_bucket", op="encode", le="1.0") == read("queue_wait_seconds_count", op="encode") == 2
    )
    assert read("model_compute_seconds_total", model="m", op="encode") == 0.5
    assert read("late_kernels_total") == 3
    assert read("frames_total", model="m") == 15
    assert read("tokens_encoded_total", model="m") == 47
    assert read("tokens_decoded_total", model="m") == 67
    assert read("queue_tokens_limit", replica="t") == 1000


def test_waits_observed_together_count_as_each_alone(folder: Path) -> None:
    """`observe_each` uses private fields of prometheus_client 0.26, which a later version may rename."""
    waits = histogram("queue_wait_seconds")
    amounts = [0.0, SECONDS[0], SECONDS[3], SECONDS[3], SECONDS[3] * 1.01, SECONDS[-1], 2 * SECONDS[-1]]
    for amount in amounts:
        waits.labels("encode").observe(amount)
    observe_each(waits.labels("decode"), amounts)
    shown = [one for metric in ProcessesCollector(folder).collect() for one in metric.samples]
    alone, together = (
        {(one.name, one.labels.get("le")): one.value for one in shown if one.labels.get("op") == op}
        for op in ("encode", "decode")
    )
    assert alone == together
    assert alone["omnitok_queue_wait_seconds_count", None] == len(amounts)


def test_the_age_of_the_oldest_request_grows_without_the_replica(read: Callable[..., float]) -> None:
    tokenizer = TokenizerMetrics("t")
    tokenizer.queue(0, 0)
    assert read("queue_age_seconds", replica="t") == 0
    tokenizer.queue(2, 90, time.monotonic() - 30)
    first = read("queue_age_seconds", replica="t")
    assert 30 <= first < 60
    assert read("queue_age_seconds", replica="t") > first
    assert (read("queue_requests", replica="t"), read("queue_tokens", replica="t")) == (2, 90)
    tokenizer.queue(1, 45, time.monotonic() - 10)
    assert 10 <= read("queue_age_seconds", replica="t") < first
    tokenizer.queue(0, 0, None)
    assert read("queue_age_seconds", replica="t") == 0


def test_steps_and_samples_are_counted_by_kind(read: Callable[..., float]) -> None:
    generators = GeneratorMetrics("g", {"a": "lm", "b": "diffusion"}, 16, 4096)
    generators.generating(3, 8, time.monotonic() - 2, 700)
    generators.stepped("lm", 40, 0.01)
    generators.generated("lm", "a", 256, 0.5)
    generators.generated("diffusion", "b", 64, 0.0)
    assert (read("generate_queue_samples"), read("generate_slots_in_use"), read("generate_slots")) == (3, 8, 16)
    assert 2 <= read("generate_queue_age_seconds") < 60
    assert (read("generate_cache_positions_in_use"), read("generate_cache_positions")) == (700, 4096)
    assert (read("generate_steps_total", kind="lm"), read("samples_generated_total", model="a")) == (40, 1)
    assert read("generate_step_duration_seconds_sum", kind="lm") == 0.01
    assert read("generate_wait_seconds_sum", kind="lm") == 0.5
    assert (read("tokens_generated_total", kind="lm"), read("tokens_generated_total", kind="diffusion")) == (256, 64)


def test_jobs_are_reported_by_status(read: Callable[..., float]) -> None:
    JobMetrics(5000).report(JobCounts({"queued": 3, "completed": 4}, 12.5, 1000))
    assert (read("jobs", status="queued"), read("jobs", status="completed"), read("jobs", status="failed")) == (3, 4, 0)
    assert 12.5 <= read("job_queue_age_seconds") < 60
    assert (read("job_bytes"), read("job_bytes_limit")) == (1000, 5000)


def test_a_replica_counts_once_it_is_ready(read: Callable[..., float]) -> None:
    replica = ReplicaMetrics("Tokenizer", {"Ingress": 2, "Tokenizer": 1})
    assert read("replicas", deployment="Tokenizer") == 0
    replica.ready()
    assert read("replicas", deployment="Tokenizer") == read("replica_starts_total", deployment="Tokenizer") == 1
    assert read("replicas_wanted", deployment="Ingress") == 2
