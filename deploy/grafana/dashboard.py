"""The Grafana dashboard as code: `python deploy/grafana/dashboard.py` writes dashboards/omnitok.json next to it.

Ray's exporter sums histograms from the middles of their buckets, so no panel divides a histogram's `_sum` by its
`_count`. A counter appears with its first event, which `rate` cannot see: panels of rare events show totals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "dashboards" / "omnitok.json"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WORK = ("/encode", "/decode", "/reconstruct", "/generate")
QUANTILES = (0.5, 0.95, 0.99)
COLUMNS = 3
WIDTH, HEIGHT = 24 // COLUMNS, 8


def rate(metric: str, by: str, labels: str = "") -> str:
    """Events per second of a counter, all replicas together."""
    return f"sum by ({by}) (rate(ray_omnitok_{metric}{{{labels}}}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str, labels: str = "") -> str:
    """Quantile `q` of a histogram over the requests of all replicas."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', by, labels)})"


def panel(title: str, unit: str, queries: dict[str, str], about: str, kind: str = "timeseries") -> dict[str, Any]:
    """One panel.

    Args:
        title: what is shown.
        unit: Grafana's name of the unit.
        queries: legend -> PromQL.
        about: the panel's help text.
        kind: Grafana's panel type.
    """
    heatmap = kind == "heatmap"
    targets = [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expression,
            "format": "heatmap" if heatmap else "time_series",
            "legendFormat": legend,
            "refId": chr(ord("A") + index),
        }
        for index, (legend, expression) in enumerate(queries.items())
    ]
    options: dict[str, Any] = {"calculate": False, "yAxis": {"unit": unit}, "legend": {"show": True}}
    if not heatmap:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": targets,
    }


def latency(route: str) -> dict[str, Any]:
    """p50, p95 and p99 of one route."""
    labels = f'route="{route}"'
    queries = {f"p{q * 100:g}": quantile(q, "http_request_duration_seconds", "le", labels) for q in QUANTILES}
    return panel(f"Latency of {route}", "s", queries, "From the first byte of the request to the last of the answer.")


def rows() -> dict[str, list[dict[str, Any]]]:
    """The panels, by the row that holds them."""
    return {
        "Requests": [
            panel(
                "Requests by route",
                "reqps",
                {"{{route}}": rate("http_requests_total", "route")},
                "Requests answered, refusals included.",
            ),
            panel(
                "Errors by code",
                "reqps",
                {"{{code}}": rate("http_requests_total", "code", 'code=~"[45].."')},
                "4xx: the caller's; 499: the caller went away; 503: shed or not ready; other 5xx: ours.",
            ),
            panel(
                "In flight",
                "short",
                {"{{route}}": "sum by (route) (ray_omnitok_http_requests_in_flight)"},
                "Requests begun and not yet answered.",
            ),
            *(latency(route) for route in WORK),
            panel(
                "Body bytes",
                "Bps",
                {
                    "in {{route}}": rate("http_request_bytes_total", "route"),
                    "out {{route}}": rate("http_response_bytes_total", "route"),
                },
                "Bytes of request and response bodies.",
            ),
        ],
        "Tokenizers": [
            panel(
                "Positions per second",
                "short",
                {
                    "encoded": "sum (rate(ray_omnitok_tokens_encoded_total[$__rate_interval]))",
                    "decoded": "sum (rate(ray_omnitok_tokens_decoded_total[$__rate_interval]))",
                },
                "Tokens, or latent vectors of a VAE.",
            ),
            panel(
                "Frames per second",
                "short",
                {"frames": "sum (rate(ray_omnitok_frames_total[$__rate_interval]))"},
                "Frames encoded or decoded; an image is one frame.",
            ),
            panel(
                "Waiting requests",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_queue_requests)"},
                "Requests that wait in a tokenizer replica.",
            ),
            panel(
                "Waiting positions",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_queue_tokens)"},
                "A replica refuses work beyond OMNITOK_MAX_QUEUE_TOKENS.",
            ),
            panel(
                "Batch sizes",
                "short",
                {"{{le}}": "sum by (le) (increase(ray_omnitok_batch_requests_bucket[$__rate_interval]))"},
                "Batches by how many requests they held, at most the number at the left.",
                kind="heatmap",
            ),
            panel(
                "Batches by operation",
                "ops",
                {"{{op}}": rate("batches_total", "op")},
                "Batches run.",
            ),
            panel(
                "Why batches closed",
                "ops",
                {"{{stop_reason}}": rate("batches_total", "stop_reason")},
                "drained: nothing else of that shape was waiting; the others: a bound was reached.",
            ),
            panel(
                "Batches that ran again by halves",
                "short",
                {"{{op}} {{failure}}": "sum by (op, failure) (ray_omnitok_batch_splits_total)"},
                "memory: the batch did not fit, and batches of its shape are smaller now; error: one item failed.",
            ),
            panel(
                "Time of a batch, p95",
                "s",
                {"{{op}}": quantile(0.95, "batch_duration_seconds", "le, op")},
                "Time in the network, waiting excluded.",
            ),
        ],
        "Generators": [
            panel(
                "Samples per second",
                "short",
                {"{{kind}}": rate("samples_generated_total", "kind")},
                "Finished samples of language models (lm) and diffusion.",
            ),
            panel(
                "Generated positions per second",
                "short",
                {"{{kind}}": rate("tokens_generated_total", "kind")},
                "Tokens or latent positions of finished samples.",
            ),
            panel(
                "Steps per second",
                "ops",
                {"{{kind}}": rate("generate_steps_total", "kind")},
                "A step makes one token of every sequence, or removes noise from every sample of a batch.",
            ),
            panel(
                "Time of a step, p95",
                "s",
                {"{{kind}}": quantile(0.95, "generate_step_duration_seconds", "le, kind")},
                "Of one in several; a step with a piece of a long prompt takes longer.",
            ),
            panel(
                "Slots in use",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_generate_slots_in_use)"},
                "Sequences that advance; a guided sample takes two. OMNITOK_GENERATOR_SLOTS bounds them.",
            ),
            panel(
                "Waiting samples",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_generate_queue_samples)"},
                "A replica refuses work beyond OMNITOK_MAX_QUEUE_SAMPLES.",
            ),
        ],
        "Jobs": [
            panel(
                "Jobs by status",
                "short",
                {"{{status}}": "sum by (status) (ray_omnitok_jobs)"},
                "Jobs that are kept. OMNITOK_MAX_JOBS bounds them; the oldest finished ones make way.",
            ),
            panel(
                "Age of the oldest waiting job",
                "s",
                {"age": "max (ray_omnitok_job_queue_age_seconds)"},
                "What waits for longer than OMNITOK_JOB_AGE_SECONDS is given up.",
            ),
            panel(
                "Content of jobs",
                "bytes",
                {"content": "sum (ray_omnitok_job_bytes)"},
                "On the disk, with what came with jobs that wait. OMNITOK_JOB_BYTES bounds it.",
            ),
        ],
        "Media": [
            panel(
                "Files decoded",
                "ops",
                {"{{container}} {{result}}": rate("media_results_total", "container, result", 'kind="decode"')},
                "ok, or the problem that the caller received.",
            ),
            panel(
                "Files written",
                "ops",
                {"{{container}} {{result}}": rate("media_results_total", "container, result", 'kind="encode"')},
                "Pictures and clips rendered for answers.",
            ),
            panel(
                "Media workers replaced",
                "short",
                {"{{reason}}": "sum by (reason) (ray_omnitok_media_worker_restarts_total)"},
                "Since each ingress replica started. Crashes and timeouts in numbers: hostile or broken files.",
            ),
        ],
        "Health": [
            panel(
                "Healthy replicas",
                "short",
                {"{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)"},
                "As Ray's controller sees them.",
            ),
            panel(
                "Repeated calls",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_retries_total)"},
                "Calls repeated because a tokenizer replica was lost, since each ingress replica started.",
            ),
            panel(
                "Ways to tokenizers",
                "short",
                {"{{way}}": rate("tokenizer_calls_total", "way")},
                "Calls a second: link within a node, ray across nodes or while a node has no tokenizer.",
            ),
            panel(
                "Cached answers",
                "short",
                {"{{result}}": rate("cache_requests_total", "result")},
                "Pure calls a second where OMNITOK_CACHE_BYTES is set: hit, collapsed with an equal one, or miss.",
            ),
            panel(
                "Kernels compiled late",
                "short",
                {"{{replica}}": "sum by (replica) (ray_omnitok_late_kernels)"},
                "Triton kernels compiled or loaded since a replica was ready: 0, or warm-up missed a shape.",
            ),
            panel(
                "Memory",
                "bytes",
                {"used": "sum (ray_node_mem_used)", "limit": "sum (ray_node_mem_total)"},
                "Of the container, or of all nodes of a cluster.",
            ),
            panel(
                "CPU",
                "percent",
                {"{{instance}}": "avg by (instance) (ray_node_cpu_utilization)"},
                "Share of all cores in use.",
            ),
            panel(
                "Exporter reached",
                "short",
                {"{{instance}}": 'up{job="omnitok"}'},
                "1 while Prometheus can read the metrics. They lag by up to ten seconds.",
            ),
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard, panels numbered and placed."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, members in rows().items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)})
        y += 1
        for index, member in enumerate(members):
            place = _place(index % COLUMNS * WIDTH, y + index // COLUMNS * HEIGHT, WIDTH, HEIGHT)
            panels.append({**member, "gridPos": place})
        y += -(-len(members) // COLUMNS) * HEIGHT
    return {
        "uid": "omnitok",
        "title": "OmniTokenizer service",
        "tags": ["omnitok"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": [{"id": number, **member} for number, member in enumerate(panels, 1)],
    }


def render() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


if __name__ == "__main__":
    TARGET.write_text(render())
