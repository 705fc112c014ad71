"""Tokenizer and batching: queues, batches, and the share of each model."""

from __future__ import annotations

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import AMBER, MODEL, RED, REPLICA, gauge, heat, quantiles, rate, series, total

WORK = [
    series(
        "Positions per second",
        "short",
        {
            "encoded": rate("tokens_encoded_total", "model", MODEL),
            "decoded": rate("tokens_decoded_total", "model", MODEL),
        },
        "Tokens, or latent vectors of a VAE.",
        stacked=True,
        width=6,
    ),
    series(
        "Frames per second",
        "short",
        rate("frames_total", "model", MODEL),
        "Encoded or decoded; an image is one frame.",
        stacked=True,
        width=6,
    ),
    series(
        "Share of a device",
        "percentunit",
        rate("model_compute_seconds_total", "model, op", MODEL),
        "Time of batches a second; 1 is one replica that computes all the time.",
        stacked=True,
        width=6,
    ),
    series(
        "Items answered", "ops", rate("model_requests_total", "model, op", MODEL), "By model and operation.", width=6
    ),
]
QUEUE = [
    series(
        "Waiting positions",
        "short",
        gauge("queue_tokens", "replica", REPLICA),
        "A replica refuses work beyond OMNITOK_MAX_QUEUE_TOKENS.",
    ),
    series("Waiting items", "short", gauge("queue_requests", "replica", REPLICA), "Items that no batch has taken."),
    series(
        "Age of the oldest item",
        "s",
        gauge("queue_age_seconds", "replica", REPLICA, how="max"),
        "Exact at each scrape; it grows while a replica hangs. 15 s pages.",
        limit=(15.0, RED),
    ),
    series("Wait in the queue", "s", quantiles("queue_wait_seconds"), "Of each item, all operations.", width=12),
    heat(
        "Distribution of waits",
        "s",
        rate("queue_wait_seconds_bucket", "le"),
        "Items per second by their wait.",
        width=12,
    ),
]
BATCHES = [
    heat("Batch sizes", "short", rate("batch_requests_bucket", "le"), "Batches per second by their number of items."),
    series(
        "Fill of batches",
        "percentunit",
        {"mean": f"{rate('batch_fill_ratio_sum', 'op')} / {rate('batch_fill_ratio_count', 'op')}"},
        "Positions of a batch, of its budget OMNITOK_MAX_BATCH_TOKENS.",
        most=1.0,
    ),
    series(
        "Items of a batch",
        "short",
        {"mean": f"{rate('batch_requests_sum', 'op')} / {rate('batch_requests_count', 'op')}"},
        "Mean of all batches.",
    ),
    series(
        "Why batches closed",
        "ops",
        rate("batches_total", "stop_reason"),
        "drained: all that waited; count or budget: there was more.",
        stacked=True,
    ),
    series(
        "Time of a batch, p95",
        "s",
        quantiles("batch_duration_seconds", by="op")["p95"],
        "By operation. It grows with the size of requests.",
    ),
    series("Batches", "ops", rate("batches_total", "op"), "Batches a second.", stacked=True),
]
RARE = [
    series(
        "Batches split, total",
        "short",
        total("batch_splits_total", "failure"),
        "Batches whose halves ran again: memory is a device that was full, error an item that fails by itself.",
        width=12,
    ),
    series(
        "Kernels compiled late, total",
        "short",
        total("late_kernels_total", "instance"),
        "Triton kernels compiled or loaded since a replica was ready: 0, or warm-up missed a shape.",
        limit=(1.0, AMBER),
        width=12,
    ),
]
BOARD = Board(
    "tokenizer",
    "Tokenizer and batching",
    "What the tokenizer replicas compute, what waits for them, and how well batches fill.",
    {"Work": WORK, "Queue": QUEUE, "Batches": BATCHES, "Rare events": RARE},
    {
        "instance": INSTANCE,
        "replica": "label_values(omnitok_queue_tokens, replica)",
        "model": "label_values(omnitok_model_requests_total, model)",
    },
)
