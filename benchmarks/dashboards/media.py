"""Media intake: files decoded and written, and the disposable processes that do it."""

from __future__ import annotations

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import RED, REPLICA, gauge, quantiles, rate, seen, series, total

FILES = [
    series(
        "Files decoded",
        "ops",
        rate("media_results_total", "container, result", 'kind=~"decode|stream"'),
        "By container and result; what is not ok names its problem.",
        stacked=True,
    ),
    series(
        "Files written",
        "ops",
        rate("media_results_total", "container, result", 'kind="encode"'),
        "Pictures and clips compressed for answers.",
        stacked=True,
    ),
    series(
        "Refused files, total",
        "short",
        total("media_results_total", "container, result", 'result!="ok"'),
        "Since the service started.",
    ),
    series(
        "Time to decode",
        "s",
        quantiles("stage_duration_seconds", 'stage="decode"'),
        "From the file to pixels, the wait for a worker included.",
        width=12,
    ),
    series(
        "Time to render",
        "s",
        quantiles("stage_duration_seconds", 'stage="render"'),
        "From pixels to the answer.",
        width=12,
    ),
]
WORKERS = [
    series(
        "Workers",
        "short",
        {"busy": gauge("media_workers_busy", "replica", REPLICA), "there": gauge("media_workers", "replica", REPLICA)},
        "Processes without access to the weights.",
    ),
    series(
        "Waiting files",
        "short",
        gauge("media_queue_files", "replica", REPLICA),
        "For a worker of their ingress replica.",
    ),
    series(
        "Age of the oldest file",
        "s",
        gauge("media_queue_age_seconds", "replica", REPLICA, how="max"),
        "That waits for a worker. 15 s opens a ticket.",
        limit=(15.0, RED),
    ),
    series(
        "Workers replaced, total",
        "short",
        seen(total("media_worker_restarts_total", "reason", 'reason!="recycled"'), "reason"),
        "forbidden: a system call of an exploit; killed: a signal from outside; the others: limits that a file broke.",
        width=16,
    ),
    series(
        "Workers recycled, total",
        "short",
        total("media_worker_restarts_total", "reason", 'reason="recycled"'),
        "Replaced after their share of files, as planned.",
    ),
]
BOARD = Board(
    "media",
    "Media intake",
    "Files of callers, and the sandboxed processes that read them.",
    {"Files": FILES, "Workers": WORKERS},
    {"instance": INSTANCE, "replica": "label_values(omnitok_media_workers, replica)"},
)
