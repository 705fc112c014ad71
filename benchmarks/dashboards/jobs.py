"""Jobs: what waits, what is worked on, what is kept."""

from __future__ import annotations

from functools import partial

from benchmarks.dashboards.board import Board
from benchmarks.dashboards.panels import AMBER, GREEN, RED, gauge, rate, seen, series, total, value

number = partial(value, none="no jobs")
NOW = [
    number(
        "Waiting",
        "none",
        'sum (omnitok_jobs{status="queued"})',
        "Jobs that nobody works on yet.",
        (GREEN, 100.0, AMBER),
    ),
    number(
        "In progress",
        "none",
        'sum (omnitok_jobs{status="in_progress"})',
        "Jobs that an ingress replica works on.",
        (GREEN,),
    ),
    number("Failed", "none", 'sum (omnitok_jobs{status="failed"})', "Among those that are kept.", (GREEN, 1.0, AMBER)),
    number(
        "Oldest waiting job",
        "s",
        "max (omnitok_job_queue_age_seconds)",
        "Half an hour opens a ticket.",
        (GREEN, 600.0, AMBER, 1800.0, RED),
    ),
    number(
        "Space in use",
        "percentunit",
        "max (omnitok_job_bytes / omnitok_job_bytes_limit)",
        "Contents of jobs, of OMNITOK_JOB_BYTES. When it is full, new jobs are refused.",
        (GREEN, 0.7, AMBER, 0.9, RED),
    ),
    number(
        "Owners",
        "none",
        'sum (omnitok_replicas{deployment="JobOwner"})',
        "Replicas that keep the jobs: one.",
        (RED, 1.0, GREEN),
    ),
]
LINES = [
    series("Jobs by status", "short", gauge("jobs", "status"), "That are kept.", stacked=True),
    series(
        "Age of the oldest waiting job",
        "s",
        {"age": gauge("job_queue_age_seconds", "", how="max")},
        "It grows while nobody works on it.",
        limit=(1800.0, RED),
    ),
    series(
        "Space",
        "bytes",
        {"in use": gauge("job_bytes", "", how="max"), "limit": gauge("job_bytes_limit", "", how="max")},
        "Contents of jobs, and what came with those that wait.",
    ),
    series(
        "Requests about jobs",
        "reqps",
        rate("http_requests_total", "method, code", 'route="/jobs"') + " > 0",
        "Lists, states, events, contents, cancellations.",
        stacked=True,
    ),
    series(
        "Submitted, total",
        "short",
        total("http_requests_total", "route", 'code="202"'),
        "Requests that became jobs, since the service started.",
    ),
    series(
        "Refusals about jobs, total",
        "short",
        seen(total("http_problems_total", "problem", 'problem=~".*job.*|use-async"'), "problem"),
        "By the code of the problem document.",
    ),
]
BOARD = Board(
    "jobs",
    "Jobs",
    "Work that callers fetch later.",
    {"Now": NOW, "Jobs": LINES},
)
