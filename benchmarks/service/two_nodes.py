"""`python -m benchmarks.service.two_nodes`: two nodes on this machine, tokenizers on one of them.

Ray calls whatever has a raylet of its own a node, so a request to an ingress replica of the other node takes Ray's way.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import ray
import typer
from prometheus_client.multiprocess import MultiProcessCollector
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from benchmarks.rows import markdown_table
from benchmarks.service.load import Load, Run, run_load
from benchmarks.service.report import summarize
from benchmarks.service.stub import StubTokenizer
from service.cluster import app as service
from service.cluster.app import LOGICAL_CPUS
from service.cluster.local import APP_NAME, private_folder
from service.cluster.node_metrics import FOLDER
from service.cluster.ray_environment import cluster_environment, ray_request_seconds
from service.settings import Settings

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
HEAD, OTHER = "head", "other"  # resources, so that a deployment can be put on a node
READY_SECONDS = 120.0
COLUMNS = (
    *("layout", "200/s", "p50, ms", "calls over the link", "through Ray"),
    *("CPU ms a request: ingress", "tokenizer", "all"),
)
OBJECT_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Layout:
    """Places of the two tiers.

    Args:
        title: for the table.
        ingress: the node of all ingress replicas; None for one on each.
    """

    title: str
    ingress: str | None


LAYOUTS = (
    Layout("ingress with the tokenizer", OTHER),
    Layout("ingress on the other node", HEAD),
    Layout("ingress on both nodes", None),
)


def build_stub(args: dict[str, Any]) -> serve.Application:
    """Return the application with tokenizers that take 2 ms a batch."""
    service.Tokenizer = StubTokenizer  # type: ignore[misc]
    return service.build(args)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="Length of each run.")] = 15.0,
    connections: Annotated[int, typer.Option(help="Requests in flight.")] = 8,
    mix: Annotated[str, typer.Option(help="As for `benchmarks.service`.")] = "img256",
    port: Annotated[int, typer.Option(help="Of the API; the next three are for metrics.")] = 8340,
) -> None:
    """Measure each layout."""
    settings = Settings(port=port, metrics_port=port + 1, torch_threads=1)
    with two_nodes(settings, "HeadOnly"):
        rows = (_measure(settings, layout, mix, connections, seconds) for layout in LAYOUTS)
        for line in markdown_table(COLUMNS, rows):
            print(line, flush=True)


@contextmanager
def two_nodes(settings: Settings, proxies: Literal["HeadOnly", "EveryNode"]) -> Iterator[Cluster]:
    """Start two nodes, and Ray Serve with its proxies there; the ports after that of the metrics are the nodes'."""
    with private_folder() as folder, cluster_environment(settings, folder):
        cluster = Cluster(initialize_head=True, head_node_args=node_options(HEAD, settings.port + 2))
        try:
            cluster.add_node(**node_options(OTHER, settings.port + 3))
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
            http = {"host": "127.0.0.1", "port": settings.port, "request_timeout_s": ray_request_seconds(settings)}
            serve.start(proxy_location=proxies, http_options=http)
            yield cluster
        finally:
            serve.shutdown()
            ray.shutdown()
            cluster.shutdown()


def node_options(name: str, metrics_port: int) -> dict[str, Any]:
    """Return what starts a node that has a resource of this name."""
    return {
        "num_cpus": 4,
        "resources": {name: 1},
        "object_store_memory": OBJECT_BYTES,
        "metrics_export_port": metrics_port,
        "include_dashboard": False,
    }


def deploy(settings: Settings, layout: Layout, is_stub: bool) -> None:
    """Deploy as `serve deploy` does, with a file that says where the deployments go, and wait until all is ready."""
    ingress: dict[str, Any] = {"name": "Ingress", "num_replicas": 2, "ray_actor_options": _on(layout.ingress)}
    if layout.ingress is None:
        ingress["max_replicas_per_node"] = 1
    tokenizer = {"name": "StubTokenizer" if is_stub else "Tokenizer", "ray_actor_options": _on(OTHER)}
    path = "benchmarks.service.two_nodes:build_stub" if is_stub else "service.cluster.app:build"
    fields = settings.model_dump(mode="json", exclude_defaults=True)
    application = {"name": APP_NAME, "import_path": path, "args": fields, "deployments": [ingress, tokenizer]}
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema(applications=[application]), _blocking=True)  # as `serve run` does
    wait_ready(settings.port)


def _on(node: str | None) -> dict[str, Any]:
    return {"num_cpus": LOGICAL_CPUS, "resources": {node: 0.01}} if node else {"num_cpus": LOGICAL_CPUS}


def wait_ready(port: int) -> None:
    """Wait until readiness answers ten times in a row, and so both ingress replicas.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + READY_SECONDS
    in_a_row = 0
    while in_a_row < 10:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5, trust_env=False)
            in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
        except httpx.HTTPError:
            in_a_row = 0
        if time.monotonic() > deadline:
            raise TimeoutError(f"The service on port {port} is not ready after {READY_SECONDS:.0f} s.")
        time.sleep(0.1)


def _measure(settings: Settings, layout: Layout, mix: str, connections: int, seconds: float) -> tuple[str, ...]:
    deploy(settings, layout, is_stub=True)
    before = _ways()
    run: Run = run_load(Load(f"http://127.0.0.1:{settings.port}", mix, None, connections, seconds), os.getpid())
    after = _ways()
    summary = summarize(run, objective_s=1.0)
    calls = {way: after.get(way, 0.0) - before.get(way, 0.0) for way in ("link", "ray")}
    share = {way: count / max(sum(calls.values()), 1.0) for way, count in calls.items()}
    cost = {name: 1e3 * spent / max(run.cpu_answers, 1) for name, (_, spent) in run.cpu.items()}
    tokenizer = cost.get("StubTokenizer", cost.get("Tokenizer", 0.0))
    milliseconds = (f"{value:.2f}" for value in (cost.get("Ingress", 0.0), tokenizer, sum(cost.values())))
    ways = f"{share['link']:.0%}", f"{share['ray']:.0%}"
    return layout.title, f"{summary.rate:.0f}", f"{summary.latency_ms[0]:.1f}", *ways, *milliseconds


def _ways() -> dict[str, float]:
    """Return the calls of tokenizers by their way, of both nodes together: two exporters cannot share a port."""
    paths = [str(path) for path in Path(tempfile.gettempdir()).glob(f"omnitok-link-*/{FOLDER}/counter_*.db")]
    samples = (sample for metric in MultiProcessCollector.merge(paths) for sample in metric.samples)
    return {one.labels["way"]: one.value for one in samples if one.name == "omnitok_tokenizer_calls_total"}


if __name__ == "__main__":
    app()
