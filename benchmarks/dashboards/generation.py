"""Generation: samples, steps, slots and cache of the generators."""

from __future__ import annotations

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import MODEL, RED, REPLICA, gauge, heat, quantiles, rate, series

SAMPLES = [
    series(
        "Samples per second", "ops", rate("samples_generated_total", "model", MODEL), "Finished samples.", stacked=True
    ),
    series(
        "Positions per second",
        "short",
        rate("tokens_generated_total", "model", MODEL),
        "Positions of finished samples.",
        stacked=True,
    ),
    series("Steps per second", "ops", rate("generate_steps_total", "kind"), "Of all sequences together."),
    series(
        "Time of a step",
        "s",
        quantiles("generate_step_duration_seconds", by="kind"),
        "A language model writes one position of each row a step.",
    ),
    heat(
        "Distribution of steps",
        "s",
        rate("generate_step_duration_seconds_bucket", "le"),
        "Steps per second by their time.",
    ),
    series(
        "Latency of /generate",
        "s",
        quantiles("http_request_duration_seconds", 'route="/generate"'),
        "From the first byte of the request to the last of the answer.",
    ),
]
CAPACITY = [
    series(
        "Slots",
        "short",
        {
            "in use": gauge("generate_slots_in_use", "replica", REPLICA),
            "there": gauge("generate_slots", "replica", REPLICA),
        },
        "Sequences that can be sampled at a time; a guided sample takes two.",
    ),
    series(
        "Cache of language models",
        "short",
        {
            "in use": gauge("generate_cache_positions_in_use", "replica", REPLICA),
            "there": gauge("generate_cache_positions", "replica", REPLICA),
        },
        "Positions whose keys and values are held.",
    ),
    series(
        "Waiting samples",
        "short",
        gauge("generate_queue_samples", "replica", REPLICA),
        "Beyond OMNITOK_MAX_QUEUE_SAMPLES a replica refuses.",
    ),
    series(
        "Age of the oldest sample",
        "s",
        gauge("generate_queue_age_seconds", "replica", REPLICA, how="max"),
        "That waits for a slot. 120 s opens a ticket.",
        limit=(120.0, RED),
        width=12,
    ),
    series("Wait for a slot", "s", quantiles("generate_wait_seconds", by="kind"), "Of each sample.", width=12),
]
BOARD = Board(
    "generation",
    "Generation",
    "What the generators make, how fast they step, and what waits for their slots.",
    {"Samples": SAMPLES, "Slots and queue": CAPACITY},
    {
        "instance": INSTANCE,
        "replica": "label_values(omnitok_generate_slots, replica)",
        "model": "label_values(omnitok_samples_generated_total, model)",
    },
)
