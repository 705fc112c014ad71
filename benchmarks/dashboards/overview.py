"""Overview: is the service well, and if not, where to look."""

from __future__ import annotations

from benchmarks.dashboards.board import Board
from benchmarks.dashboards.panels import AMBER, GREEN, RED, gauge, quantiles, rate, rows_of, series, value

BURN_STEPS = (GREEN, 1.0, AMBER, 6.0, RED)
FULL_STEPS = (GREEN, 0.7, AMBER, 0.9, RED)
MISSING = "max by (deployment) (omnitok_replicas_wanted) - sum by (deployment) (omnitok_replicas)"
WORK = 'method="POST", route=~"/(encode|decode|reconstruct|vae/encode|vae/decode|generate|images/generations|videos)"'


def shed(window: str) -> str:
    """Return the work per second that HAProxy refuses for replicas with full queues."""
    return f'sum (rate(haproxy_backend_http_responses_total{{proxy="refused-overloaded", code="5xx"}}[{window}]))'


SHED = f"({shed('5m')} or vector(0))"
OBJECTIVES = [
    value(
        "Availability burn, 1 h",
        "none",
        "omnitok:work_errors:burn_rate1h",
        "1 spends the budget of 0.1 % failures in exactly its month; 14.4 pages. Probes are not counted.",
        BURN_STEPS,
        none="no work",
        to="omnitok-requests",
    ),
    value(
        "Latency burn, 1 h",
        "none",
        "omnitok:work_latency:burn_rate1h",
        "1 spends the budget of 1 % of requests over 5 s in exactly its month; 14.4 pages. Generation is not counted.",
        BURN_STEPS,
        none="no work",
        to="omnitok-requests",
    ),
    value(
        "Error budget left, 7 d",
        "percentunit",
        "1 - omnitok:work_errors:burn_rate7d",
        "What is left of a week's budget of failures. Below 0: more failed than the objective allows.",
        (RED, 0.1, AMBER, 0.5, GREEN),
        none="no work",
    ),
    value(
        "Work refused or failed",
        "percentunit",
        f'(sum (rate(omnitok_http_requests_total{{code=~"5..", {WORK}}}[5m])) + {SHED})'
        f" / (sum (rate(omnitok_http_requests_total{{{WORK}}}[5m])) + {SHED})",
        "Share of 5xx among the requests for work, HAProxy's refusals included, 5 minutes.",
        (GREEN, 0.001, AMBER, 0.01, RED),
        none="no work",
        to="omnitok-requests",
    ),
    value(
        "p99 of encode and decode",
        "s",
        "histogram_quantile(0.99, sum by (le) (rate(omnitok_http_request_duration_seconds_bucket"
        '{route=~"/(encode|decode|reconstruct|vae/encode|vae/decode)"}[5m])))',
        "From the first byte of the request to the last of the answer, 5 minutes.",
        (GREEN, 2.0, AMBER, 5.0, RED),
        none="no work",
        to="omnitok-requests",
    ),
    value(
        "Pages that fire",
        "none",
        'count (ALERTS{alertstate="firing", severity="page"}) or vector(0)',
        "Alerts that wake somebody. The table names them and leads to their runbooks.",
        (GREEN, 1.0, RED),
        to="omnitok-runbooks",
    ),
]
SATURATION = [
    value(
        "Edge",
        "none",
        'min (up{job="edge"})',
        "1 while Prometheus reaches HAProxy on every node.",
        (RED, 1.0, GREEN),
        none="no target",
        to="omnitok-hosts",
    ),
    value(
        "Replicas missing",
        "none",
        f"sum ({MISSING} > 0) or vector(0)",
        "Replicas that the settings want and that do not run.",
        (GREEN, 1.0, AMBER, 2.0, RED),
        to="omnitok-hosts",
    ),
    value(
        "Fullest queue",
        "percentunit",
        "max (omnitok_queue_tokens / omnitok_queue_tokens_limit)",
        "Waiting positions of the fullest tokenizer, of those that it lets in.",
        FULL_STEPS,
        none="no target",
        to="omnitok-tokenizer",
    ),
    value(
        "Oldest waiting work",
        "s",
        "max (omnitok_queue_age_seconds)",
        "Age of the item that has waited longest for a tokenizer. 15 s pages.",
        (GREEN, 2.0, AMBER, 15.0, RED),
        to="omnitok-tokenizer",
    ),
    value(
        "Memory",
        "percentunit",
        "max (ray_node_mem_used / ray_node_mem_total)",
        "Of the fullest node. At 95 % Ray ends workers.",
        (GREEN, 0.8, AMBER, 0.9, RED),
        none="no target",
        to="omnitok-hosts",
    ),
    value(
        "Least free disk",
        "percentunit",
        "min (omnitok_filesystem_free_bytes / omnitok_filesystem_size_bytes)",
        "Of Ray's folder, shared memory and jobs, on any node. Below 10 % no replica can be replaced.",
        (RED, 0.1, AMBER, 0.25, GREEN),
        to="omnitok-hosts",
    ),
]
NOW = [
    rows_of(
        "Alerts that fire",
        'ALERTS{alertstate="firing", alertname=~"Omnitok.*"}',
        "Each name leads to its runbook.",
        ["alertname", "severity", "instance", "deployment", "replica", "gpu", "mount"],
        links={"alertname": "/d/runbook-${__value.raw}"},
        width=12,
    ),
    series(
        "Burn rates",
        "none",
        {
            "availability, 5 m": "omnitok:work_errors:burn_rate5m",
            "availability, 1 h": "omnitok:work_errors:burn_rate1h",
            "latency, 5 m": "omnitok:work_latency:burn_rate5m",
            "latency, 1 h": "omnitok:work_latency:burn_rate1h",
        },
        "How many times as fast as allowed the error budgets are spent. 14.4 in both windows pages.",
        limit=(14.4, RED),
        width=12,
    ),
]
LOAD = [
    series(
        "Requests for work",
        "reqps",
        rate("http_requests_total", "route", WORK),
        "Answered, refusals included.",
        stacked=True,
    ),
    series(
        "Failures by code",
        "reqps",
        {"": rate("http_requests_total", "code", f'code=~"5..", {WORK}'), "503 by HAProxy": shed("$__rate_interval")},
        "503: refused since a queue is full, or not ready; 504: deadline; 500: a fault. Totals are on Requests.",
        stacked=True,
    ),
    series(
        "Latency of all work",
        "s",
        quantiles("http_request_duration_seconds", 'route=~"/(encode|decode|reconstruct|vae/encode|vae/decode)"'),
        "Of encode, decode and reconstruct. The line is the objective.",
        limit=(5.0, RED),
    ),
    series(
        "Positions per second",
        "short",
        {
            "encoded": rate("tokens_encoded_total"),
            "decoded": rate("tokens_decoded_total"),
            "generated": rate("tokens_generated_total"),
        },
        "Tokens, or latent vectors of a VAE.",
        stacked=True,
    ),
    series(
        "Saturation",
        "percentunit",
        {
            "queue": 'max by (replica) (omnitok_queue_tokens{instance=~"$instance"}'
            ' / omnitok_queue_tokens_limit{instance=~"$instance"})',
            "media workers": gauge("media_workers_busy", "") + " / " + gauge("media_workers", ""),
            "generator slots": gauge("generate_slots_in_use", "") + " / " + gauge("generate_slots", ""),
            "GPU": gauge("gpu_utilization_ratio", "gpu", how="max"),
        },
        "Each in its own measure of full. 1 refuses or waits.",
        limit=(0.9, RED),
        most=1.0,
    ),
    series(
        "Time by stage, p95",
        "s",
        quantiles("stage_duration_seconds", by="stage")["p95"],
        "decode: file to pixels; queue: wait for a tokenizer; compute: the batch; render: the answer.",
    ),
]
BOARD = Board(
    "overview",
    "OmniTokenizer overview",
    "Whether the service is well. Numbers lead to the dashboard that explains them.",
    {"Objectives": OBJECTIVES, "Saturation": SATURATION, "Now": NOW, "Load": LOAD},
)
