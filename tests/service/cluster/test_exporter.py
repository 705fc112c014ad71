"""The metrics of both tiers, as an exporter receives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest

from service.cluster import metrics
from service.cluster.metrics import GeneratorMetrics, IngressMetrics, JobMetrics, KernelMetrics, TokenizerMetrics
from service.jobs.records import JobCounts
from service.scheduling.batcher import Batch
from service.scheduling.item import Item
from service.types import TokenizerKey

Series = tuple[str, ...]  # a name, then the values of its labels


class Exporter:
    """Keeps the sum of each counter and histogram, and the value of each gauge."""

    def __init__(self) -> None:
        self.seen: defaultdict[Series, float] = defaultdict(float)

    def metric(self, name: str, *_: Any) -> SimpleNamespace:
        def add(amount: float = 1.0, tags: dict[str, str] | None = None) -> None:
            self.seen[(name, *(tags or {}).values())] += amount

        def put(amount: float, tags: dict[str, str] | None = None) -> None:
            self.seen[(name, *(tags or {}).values())] = amount

        return SimpleNamespace(inc=add, observe=add, set=put)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> MutableMapping[Series, float]:
    exporter = Exporter()
    kinds = SimpleNamespace(Counter=exporter.metric, Gauge=exporter.metric, Histogram=exporter.metric)
    monkeypatch.setattr(metrics, "metrics", kinds)
    return exporter.seen


def test_totals_of_the_pool_are_counted_once(seen: MutableMapping[Series, float]) -> None:
    """The pool counts since its start, the exporter since the last report."""
    ingress = IngressMetrics()
    ok, corrupt = ("decode", "png", "ok"), ("decode", "png", "corrupt-media")
    ingress.media({ok: 3}, {"crash": 1})
    ingress.media({ok: 3}, {"crash": 1})
    ingress.media({ok: 5, corrupt: 1}, {"crash": 2, "timeout": 1})
    assert seen["omnitok_media_results_total", *ok] == 5
    assert seen["omnitok_media_results_total", *corrupt] == 1
    assert seen["omnitok_media_worker_restarts_total", "crash"] == 2
    assert seen["omnitok_media_worker_restarts_total", "timeout"] == 1


def test_a_request_is_counted_with_its_bytes_and_seconds(seen: MutableMapping[Series, float]) -> None:
    ingress = IngressMetrics()
    for change in (1, 1, -1):
        ingress.in_flight("/encode", change)
    ingress.observe("/encode", "POST", "200", 0.25, 100, 30)
    ingress.observe("/encode", "POST", "503", 0.5, 0, 7)
    ingress.refresh()
    ingress.refresh()
    assert seen["omnitok_http_requests_in_flight", "/encode"] == 1
    assert seen["omnitok_http_requests_total", "/encode", "POST", "200"] == 1
    assert seen["omnitok_http_request_duration_seconds", "/encode"] == 0.75
    assert seen["omnitok_http_request_bytes_total", "/encode"] == 100
    assert seen["omnitok_http_response_bytes_total", "/encode"] == 37


def test_gauges_are_reported_again_when_nothing_happens(seen: MutableMapping[Series, float]) -> None:
    """The exporter forgets what has not been set for a while."""
    ingress, tokenizer = IngressMetrics(), TokenizerMetrics()
    ingress.in_flight("/decode", 1)
    tokenizer.queue(2, 90)
    seen.clear()
    ingress.refresh()
    tokenizer.refresh()
    assert seen == {
        ("omnitok_http_requests_in_flight", "/decode"): 1,
        ("omnitok_queue_requests",): 2,
        ("omnitok_queue_tokens",): 90,
    }


def test_batches_and_work_are_counted(seen: MutableMapping[Series, float]) -> None:
    tokenizer = TokenizerMetrics()
    key = TokenizerKey("m", "encode", "pixels", (1, 8, 8))
    tokenizer.batch(Batch(key, (Item(0, key, 1, 1.0), Item(1, key, 1, 1.0)), 2, "drained", 0.0), 0.5)
    KernelMetrics().late(3)
    tokenizer.done("encode", 5, 40)
    tokenizer.done("decode", 9, 60)
    tokenizer.done("reconstruct", 1, 7)
    tokenizer.refresh()
    tokenizer.refresh()
    assert seen["omnitok_batches_total", "encode", "drained"] == 1
    assert seen["omnitok_batch_requests", "encode"] == 2
    assert seen["omnitok_batch_duration_seconds", "encode"] == 0.5
    assert seen["omnitok_late_kernels",] == 3
    assert seen["omnitok_frames_total",] == 15
    assert seen["omnitok_tokens_encoded_total",] == 47
    assert seen["omnitok_tokens_decoded_total",] == 67


def test_steps_and_samples_are_counted_by_kind(seen: MutableMapping[Series, float]) -> None:
    generators = GeneratorMetrics()
    generators.generating(3, 8)
    generators.stepped("lm", 40, 0.01)
    generators.generated("lm", 256)
    generators.generated("diffusion", 64)
    assert (seen["omnitok_generate_queue_samples",], seen["omnitok_generate_slots_in_use",]) == (3, 8)
    assert (seen["omnitok_generate_steps_total", "lm"], seen["omnitok_samples_generated_total", "lm"]) == (40, 1)
    assert seen["omnitok_generate_step_duration_seconds", "lm"] == 0.01
    assert (seen["omnitok_tokens_generated_total", "lm"], seen["omnitok_tokens_generated_total", "diffusion"]) == (
        256,
        64,
    )
    seen.clear()
    generators.refresh()
    assert seen["omnitok_generate_slots_in_use",] == 8


def test_jobs_are_reported_by_status(seen: MutableMapping[Series, float]) -> None:
    JobMetrics().report(JobCounts({"queued": 3, "completed": 4}, 12.5, 1000))
    assert seen == {
        ("omnitok_jobs", "queued"): 3,
        ("omnitok_jobs", "completed"): 4,
        ("omnitok_job_queue_age_seconds",): 12.5,
        ("omnitok_job_bytes",): 1000,
    }
