"""Ray and hosts: replicas, HAProxy, memory, processors, disks, and the scrapes themselves."""

from __future__ import annotations

from benchmarks.dashboards.board import INSTANCE, Board
from benchmarks.dashboards.panels import AMBER, GREEN, RED, gauge, refused, series, total, value

HOST = 'instance=~"$host"'


def by_process(metric: str) -> str:
    """Return a metric of Ray by the name of the process; the method that it runs now is not part of that."""
    named = f'label_replace({metric}{{{HOST}}}, "process", "$1", "Component", "(.*)")'
    named = f'label_replace({named}, "process", "$1", "Component", "(ray::[^.]*)[.].*")'
    return f"topk(8, max by (process) ({named}))"


NOW = [
    value(
        "Edge",
        "none",
        'min (up{job="edge"})',
        "1 while Prometheus reaches HAProxy on every node.",
        (RED, 1.0, GREEN),
        none="no target",
    ),
    value(
        "Exporters",
        "none",
        'min (up{job=~"omnitok|ray"})',
        "1 while Prometheus reads the service's and Ray's metrics of every node.",
        (RED, 1.0, GREEN),
        none="no target",
    ),
    value(
        "Servers of HAProxy",
        "none",
        'min (haproxy_backend_active_servers{proxy=~"http-.*"})',
        "Ingress replicas that it sends requests to.",
        (RED, 1.0, AMBER, 2.0, GREEN),
        none="no target",
    ),
    value(
        "Up for",
        "s",
        "time() - max (omnitok_start_time_seconds)",
        "Since the service of the youngest node started.",
        (AMBER, 600.0, GREEN),
        none="down",
    ),
    value(
        "Metric series",
        "none",
        "max (omnitok_metrics_series)",
        "Of the service's exporter. 6,000 opens a ticket.",
        (GREEN, 4000.0, AMBER, 6000.0, RED),
        none="no target",
    ),
    value(
        "Workers ended for memory",
        "none",
        "sum (ray_memory_manager_worker_eviction_total) or vector(0)",
        "By Ray, since it started.",
        (GREEN, 1.0, RED),
    ),
]
REPLICAS = [
    series(
        "Replicas",
        "short",
        {"": gauge("replicas", "deployment"), "wanted": gauge("replicas_wanted", "deployment", how="max")},
        "Processes that live, and the least that the settings want.",
    ),
    series(
        "Replica starts, total",
        "short",
        total("replica_starts_total", "deployment"),
        "Replicas that became ready. Each step is a deployment, a scaling or a loss.",
    ),
    series(
        "Healthy replicas, by Ray",
        "short",
        "sum by (deployment) (ray_serve_deployment_replica_healthy)",
        "As Ray's controller sees them; it lags by seconds.",
    ),
]
EDGE = [
    series(
        "HAProxy: answers by code",
        "reqps",
        ('sum by (code) (rate(haproxy_frontend_http_responses_total{proxy="http_frontend"}[$__rate_interval]))'),
        "What callers see, its own refusals included.",
        stacked=True,
    ),
    series(
        "HAProxy: errors of its own, total",
        "short",
        {
            "connection": "sum (haproxy_backend_connection_errors_total)",
            "response": "sum (haproxy_backend_response_errors_total)",
            "retries": "sum (haproxy_backend_retry_warnings_total)",
            "broken requests": 'sum (haproxy_frontend_request_errors_total{proxy="http_frontend"})',
        },
        "Since HAProxy started: replicas that it could not reach, and requests that broke off or could not be parsed.",
    ),
    series(
        "HAProxy: refusals of its own",
        "reqps",
        f"sum by (problem) ({refused('$__rate_interval')})",
        "overloaded: the like of what replicas refused a moment before. They are not among the service's requests.",
    ),
    series(
        "HAProxy: connections",
        "short",
        'sum by (instance) (haproxy_frontend_current_sessions{proxy="http_frontend"})',
        "Of callers, open now.",
    ),
]
MACHINE = [
    series(
        "Memory",
        "bytes",
        {
            "used": f"sum by (instance) (ray_node_mem_used{{{HOST}}})",
            "limit": f"sum by (instance) (ray_node_mem_total{{{HOST}}})",
        },
        "Of the container, or of the machine without a limit.",
    ),
    series(
        "Memory by process",
        "decmbytes",
        by_process("ray_component_rss_mb"),
        "Resident memory of Ray's processes and of the replicas.",
        stacked=True,
    ),
    series(
        "CPU",
        "percent",
        f"avg by (instance) (ray_node_cpu_utilization{{{HOST}}})",
        "Share of all cores in use, of the whole machine.",
        most=100.0,
    ),
    series("CPU by process", "percent", by_process("ray_component_cpu_percentage"), "100 is one core.", stacked=True),
    series(
        "Free space",
        "bytes",
        {"{{mount}} {{instance}}": gauge("filesystem_free_bytes", "instance, mount", how="min")},
        "tmp: Ray's folder and logs; shm: pixels on their way; jobs: their contents.",
    ),
    series(
        "Network",
        "Bps",
        {
            "in": f"sum by (instance) (ray_node_network_receive_speed{{{HOST}}})",
            "out": f"sum by (instance) (ray_node_network_send_speed{{{HOST}}})",
        },
        "Of the node.",
    ),
]
SCRAPES = [
    series(
        "Targets",
        "short",
        {"{{job}} {{instance}}": 'up{job=~"omnitok|ray|edge"}'},
        "1 while Prometheus can read them.",
        most=1.0,
    ),
    series(
        "Time of a scrape",
        "s",
        {"{{job}} {{instance}}": 'scrape_duration_seconds{job=~"omnitok|ray|edge"}'},
        "Beyond 8 s a scrape fails.",
    ),
    series(
        "Series kept",
        "short",
        {"{{job}} {{instance}}": 'scrape_samples_post_metric_relabeling{job=~"omnitok|ray|edge"}'},
        "At 20,000 Prometheus refuses the target.",
    ),
]
BOARD = Board(
    "hosts",
    "Ray and hosts",
    "Replicas, HAProxy, the machines below them, and the scrapes themselves.",
    {"Now": NOW, "Replicas": REPLICAS, "Edge": EDGE, "Machines": MACHINE, "Scrapes": SCRAPES},
    {"instance": INSTANCE, "host": "label_values(ray_node_mem_total, instance)"},
)
