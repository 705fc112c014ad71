"""Requests: rates, refusals and latency by route."""

from __future__ import annotations

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import gauge, heat, quantiles, rate, refused, seen, series, total

ROUTE = 'route=~"$route"'
RATES = [
    series(
        "Requests by route",
        "reqps",
        rate("http_requests_total", "route", ROUTE),
        "Answered, refusals and probes included.",
        stacked=True,
    ),
    series(
        "Requests by code",
        "reqps",
        rate("http_requests_total", "code", ROUTE) + " > 0",
        "4xx: the caller's; 499: the caller gave up; 503: refused or not ready; other 5xx: ours.",
        stacked=True,
    ),
    series("In flight", "short", gauge("http_requests_in_flight", "route", ROUTE), "Begun and not yet answered."),
]
REFUSALS = [
    series(
        "Errors by code, total",
        "short",
        seen(total("http_requests_total", "code", f'code=~"[45]..", {ROUTE}'), "code"),
        "Since the service started, so that a single one is seen.",
    ),
    series(
        "Refusals by problem, total",
        "short",
        seen(f'sum by (problem) (omnitok_http_problems_total{{instance=~"$instance"}} or {refused()})', "problem"),
        "By the code of the problem document, HAProxy's own included. Since the service and HAProxy started.",
    ),
    series(
        "Repeated calls, total",
        "short",
        {"calls": 'sum (omnitok_retries_total{instance=~"$instance"})'},
        "Calls repeated since a tokenizer replica was lost. Callers do not see them.",
    ),
]
LATENCY = [
    series(
        "Latency",
        "s",
        quantiles("http_request_duration_seconds", ROUTE),
        "From the first byte of the request to the last of the answer, all chosen routes together.",
    ),
    series(
        "p99 by route",
        "s",
        quantiles("http_request_duration_seconds", ROUTE, by="route")["p99"],
        "Which route is slow.",
    ),
    heat(
        "Distribution of latency",
        "s",
        rate("http_request_duration_seconds_bucket", "le", ROUTE),
        "Requests per second by their time.",
    ),
    series(
        "Stages, p50",
        "s",
        quantiles("stage_duration_seconds", by="stage")["p50"],
        "decode: file to pixels; queue: wait for a tokenizer; compute: the batch; render: the answer.",
    ),
    series(
        "Stages, p99",
        "s",
        quantiles("stage_duration_seconds", by="stage")["p99"],
        "The stage that makes slow requests slow.",
    ),
    series(
        "Body bytes",
        "Bps",
        {
            "in": rate("http_request_bytes_total", "route", ROUTE) + " > 0",
            "out": rate("http_response_bytes_total", "route", ROUTE) + " > 0",
        },
        "Of request and response bodies.",
    ),
]
WAYS = [
    series(
        "Ways to tokenizers",
        "ops",
        rate("tokenizer_calls_total", "way"),
        "link within a node, ray across nodes or while a node has no tokenizer.",
    ),
    series(
        "Waiting for a tokenizer",
        "short",
        {"link": gauge("link_waiting", "replica"), "router": gauge("router_waiting", "replica")},
        "Calls in an ingress replica that no tokenizer has taken.",
    ),
    series(
        "Cached answers",
        "ops",
        rate("cache_requests_total", "result"),
        "Pure calls where OMNITOK_CACHE_BYTES is set: hit, collapsed with an equal one, or miss.",
    ),
    series("Calls over the link", "short", gauge("link_calls", "replica"), "Under way from each ingress replica."),
    series(
        "Tokenizers on the link",
        "short",
        gauge("link_tokenizers", "replica"),
        "That each ingress replica reaches on its own node.",
    ),
    series(
        "Free memory of the link",
        "bytes",
        gauge("link_free_bytes", "replica"),
        "Shared memory for pixels on their way. At 0 calls wait.",
    ),
]
BOARD = Board(
    "requests",
    "Requests",
    "What callers ask for and get: rates, refusals, latency, and the way to the tokenizers.",
    {"Rates": RATES, "Refusals and failures": REFUSALS, "Latency": LATENCY, "Between the tiers": WAYS},
    {"instance": INSTANCE, "route": "label_values(omnitok_http_requests_total, route)"},
)
