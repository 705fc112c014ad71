"""A real Prometheus reads a real cluster: queries find their metrics, counters are exact, quantiles near the truth."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from api_media import clip, picture
from cluster_service import Service, eventually
from PIL import Image
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_tools import needs, tool
from test_dashboards import DASHBOARDS, PAGES, queries, runbook_queries

from benchmarks.service.load import Load, run_load
from benchmarks.service.process import free_port
from service.formats.media_types import MSGPACK
from service.metrics.definitions import histogram

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus"
EMPTY = yaml.safe_load((Path(__file__).parent / "empty_queries.yml").read_text())
SELECTOR = re.compile(r"\b((?:omnitok|ray|haproxy)[_:][\w:]+|up|ALERTS)\b(\{[^}]*\})?")
INTERVAL_SECONDS = 1
TRIES = 120
SERIES_BUDGET = 6000


@dataclass(frozen=True)
class Prometheus:
    """A server that reads the service, and a port where a test may show metrics of its own."""

    client: httpx.Client
    known_port: int

    def ask(self, query: str) -> list[float]:
        """Return the values of a query that are numbers."""
        answer = self.client.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, (query, answer.text)
        result: Any = answer.json()["data"]["result"]
        values = [float(row["value"][1]) for row in result]
        return [value for value in values if not math.isnan(value)]

    def value(self, query: str) -> float:
        """Return the one value of a query, which is missing for a while where a busy machine is late to answer."""
        eventually(lambda: len(self.ask(query)) == 1)
        (value,) = self.ask(query)
        return value

    def scraped(self, *jobs: str) -> None:
        """Wait until targets were read again, each after now."""
        for job in jobs:
            up, now = f'up{{job="{job}"}}', time.time()
            eventually(lambda up=up, now=now: self.ask(f"timestamp({up}) > {now}") != [] and self.ask(up) == [1.0])


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    targets = {
        "omnitok": service.settings.metrics_port,
        "ray": service.settings.ray_metrics_port,
        "edge": int(os.environ.get("RAY_SERVE_HAPROXY_METRICS_PORT", 0)),
        "prometheus": port,
    }
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    times = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    config["global"] = dict.fromkeys(times, f"{INTERVAL_SECONDS}s")
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    known_port = free_port()
    config["scrape_configs"] += [{"job_name": "known", "static_configs": [{"targets": [f"127.0.0.1:{known_port}"]}]}]
    for name in config["rule_files"]:
        rules = yaml.safe_load((RULES / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / name).write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        server = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            eventually(lambda: _is_ready(client))
            yield Prometheus(client, known_port)
    finally:
        server.kill()
        server.wait()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def work(http: httpx.Client) -> None:
    """Send something of every kind."""

    def post(path: str, body: bytes, kind: str, accept: str, status: int = 200) -> bytes:
        answer = http.post(path, content=body, headers={"Content-Type": kind, "Accept": accept})
        assert answer.status_code == status, answer.text
        return answer.content

    tokens = post("/encode", picture(), "image/png", MSGPACK)
    post("/decode", tokens, MSGPACK, "image/png")
    post("/reconstruct", clip(frames=5, height=32, width=32), "video/mp4", "video/mp4")
    post("/encode", b"no picture", "image/png", MSGPACK, 415)
    post("/generate?class=bee", b"", "application/json", "image/png")
    http.get("/jobs").raise_for_status()


def load(service: Service) -> dict[int, int]:
    """Send arrivals of an open loop to `/encode`; return how many answers had each status."""
    run = run_load(Load(service.url, "img128", rate=20.0, connections=8, seconds=3.0, warm_up=0.0, timeout=120.0))
    return dict(Counter(run.rows["status"].tolist()))


def filled(query: str) -> str:
    """Return a query with Grafana's variables replaced as Grafana would."""
    return re.sub(r"\$\{?\w+\}?", ".*", query.replace("$__rate_interval", "1m"))


def is_explained(name: str) -> bool:
    return any(re.match(pattern, name) for pattern in EMPTY)


@needs("prometheus")
def test_every_query_and_alert_finds_what_it_asks_for(service: Service, prometheus: Prometheus) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as http:
        prometheus.scraped("omnitok")
        work(http)
    load(service)
    prometheus.scraped("omnitok", "omnitok")
    rules = [rule for name in ("recording.yml", "alerts.yml") for rule in _rules(name)]
    shown = [filled(query) for path in DASHBOARDS for query in queries(path)]
    asked = {*shown, *(filled(query) for page in PAGES for query in runbook_queries(page))}
    names = {match for query in {*asked, *rules} for match in SELECTOR.findall(query)}
    sought = {(name, labels) for name, labels in names if not is_explained(name)}
    missing = left(sought, lambda one: found(prometheus, *one))
    assert not missing
    # A comparison is empty where all is well; that its metrics are there was seen above.
    alarms = {one for one in asked if re.search(r" (>|<|>=|<=|==|unless) |absent\(", one)}
    plain = {one for one in asked - alarms if not any(is_explained(name) for name, _ in SELECTOR.findall(one))}
    assert len(plain) > 100
    assert not left(plain, lambda one: bool(prometheus.ask(one)))
    assert prometheus.value("omnitok_metrics_series") < SERIES_BUDGET
    assert prometheus.value('scrape_samples_post_metric_relabeling{job="ray"}') < SERIES_BUDGET
    eventually(lambda: health(prometheus) == {"ok"})


def health(prometheus: Prometheus) -> set[str]:
    """Return the states of all rules."""
    groups = prometheus.client.get("/api/v1/rules").json()["data"]["groups"]
    return {rule["health"] for group in groups for rule in group["rules"]}


def left(questions: set[Any], answers: Callable[[Any], bool]) -> set[Any]:
    """Return what has no answer; a busy machine is late to give some."""
    for _ in range(TRIES):
        questions = {one for one in questions if not answers(one)}
        if not questions:
            break
        time.sleep(1.0)
    return questions


def _rules(name: str) -> list[str]:
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def found(prometheus: Prometheus, name: str, labels: str) -> bool:
    """Return whether a selector has samples, or, where it asks for a rare event, whether the metric has its labels."""
    named = ", ".join(f'{label}!=""' for label in re.findall(r"(\w+)\s*[=!]~?", labels))
    return bool(prometheus.ask(name + labels) or prometheus.ask(f"{name}{{{named}}}"))


@needs("prometheus")
def test_counters_are_exact_and_a_rare_event_is_seen(service: Service, prometheus: Prometheus) -> None:
    counts = {
        "encoded": 'sum (omnitok_http_requests_total{job="omnitok", route="/encode", code="200"})',
        "refused": 'sum (omnitok_http_problems_total{problem="malformed-body"})',
        "bytes": 'sum (omnitok_http_request_bytes_total{route="/encode"})',
        "positions": "sum (omnitok_tokens_encoded_total)",
        "stages": "sum (omnitok_stage_duration_seconds_count)",
    }
    service.idle()
    prometheus.scraped("omnitok")
    before = {name: prometheus.value(query) for name, query in counts.items()}
    body = picture()
    with httpx.Client(base_url=service.url, timeout=60) as http:
        answers = [http.post("/encode", content=body, headers={"Content-Type": "image/png"}) for _ in range(12)]
        refusal = http.post("/decode", content=b"\xc1", headers={"Content-Type": MSGPACK})
    assert {answer.status_code for answer in answers} == {200}
    assert refusal.json()["code"] == "malformed-body"
    prometheus.scraped("omnitok")
    grid = service.card.geometry.positions((1, *_size(body)))
    sent = {"encoded": 12, "refused": 1, "bytes": 12 * len(body), "positions": 12 * grid, "stages": 4 * 12}
    # Replicas count after they have answered.
    eventually(lambda: {name: prometheus.value(query) - before[name] for name, query in counts.items()} == sent)
    assert prometheus.value('increase(omnitok_http_problems_total{problem="malformed-body"}[10m])') > 0.9


@needs("prometheus")
def test_a_load_is_counted_to_the_request(service: Service, prometheus: Prometheus) -> None:
    def counted() -> dict[int, float]:
        count = 'sum (omnitok_http_requests_total{job="omnitok", route="/encode", code="%d"}) or vector(0)'
        return {code: prometheus.value(count % code) for code in (200, 503)}

    service.idle()
    prometheus.scraped("omnitok")
    before, answers = counted(), load(service)
    assert answers[200] > 0
    assert answers.keys() <= before.keys()
    eventually(lambda: {code: count + answers.get(code, 0) for code, count in before.items()} == counted())


@needs("prometheus")
def test_quantiles_are_near_the_truth(prometheus: Prometheus) -> None:
    """Quiet and loaded: durations that are known here, through the buckets and Prometheus."""
    registry, durations = CollectorRegistry(), histogram("http_request_duration_seconds")
    registry.register(durations)
    server, _ = start_http_server(prometheus.known_port, "127.0.0.1", registry)
    try:
        prometheus.scraped("known")
        rng = np.random.default_rng(0)
        known = {"/encode": rng.lognormal(np.log(0.004), 0.4, 4000), "/decode": rng.lognormal(np.log(2.0), 1.0, 4000)}
        for route, values in known.items():
            for value in values:
                durations.labels(route).observe(value)
        prometheus.scraped("known")
        for route, values in known.items():
            for q in (0.5, 0.95, 0.99):
                increase = (
                    f'increase(omnitok_http_request_duration_seconds_bucket{{job="known", route="{route}"}}[10m])'
                )
                read, truth = prometheus.value(f"histogram_quantile({q}, {increase})"), np.quantile(values, q)
                assert read == pytest.approx(truth, rel=0.15), (route, q)
    finally:
        server.shutdown()
        server.server_close()


def _size(body: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(body)) as image:
        return image.height, image.width
