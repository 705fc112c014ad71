"""`python -m benchmarks.chaos.nodes`: a cluster of two nodes is updated, scaled and robbed of a node under load.

Ray calls whatever has a raylet of its own a node. Each has an ingress replica; the tokenizers are on the second one.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import ray
import typer
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.report import report, watch_each
from benchmarks.service.two_nodes import HEAD, LAYOUTS, OTHER, deploy, node_options, wait_ready
from service.cluster.ray_environment import cluster_environment, ray_request_seconds
from service.settings import Settings

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    callers: Annotated[int, typer.Option(help="Calls at a time.")] = 3,
    retries: Annotated[int | None, typer.Option(help="Of each call; the client's own number by default.")] = None,
    pause: Annotated[float, typer.Option(help="Seconds between the calls of a caller.")] = 0.1,
    quiet: Annotated[float, typer.Option(help="Seconds of load after each event.")] = 8.0,
    port: Annotated[int, typer.Option(help="Of the API; the next three are for metrics.")] = 8360,
) -> None:
    """Let everything happen once and print a table; the status is 1 if a call failed."""
    settings = Settings(port=port, metrics_port=port + 1, torch_threads=1, max_queue_seconds=30.0)
    two = settings.model_copy(update={"tokenizer_replicas": 2})
    updated = settings.model_copy(update={"max_batch_requests": settings.max_batch_requests - 1})
    with cluster_environment(settings, Path(tempfile.mkdtemp(prefix="nodes-"))):
        cluster = Cluster(initialize_head=True, head_node_args=node_options(HEAD, port + 2))
        try:
            nodes = [cluster.add_node(**node_options(OTHER, port + 3))]
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
            http = {"host": "127.0.0.1", "port": port, "request_timeout_s": ray_request_seconds(settings)}
            serve.start(proxy_location="EveryNode", http_options=http)

            def put(wanted: Settings) -> None:
                deploy(wanted, LAYOUTS[-1], is_stub=False)

            def lose() -> None:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                nodes.append(cluster.add_node(**node_options(OTHER, port + 3)))
                wait_ready(port)

            put(settings)
            events: dict[str, Callable[[], None]] = {
                "rolling update, one tokenizer replica": lambda: put(updated),
                "one tokenizer replica more": lambda: put(two),
                "rolling update, two tokenizer replicas": lambda: put(
                    updated.model_copy(update={"tokenizer_replicas": 2})
                ),
                "one tokenizer replica less": lambda: put(updated),
                "SIGKILL of the tokenizers' node, and another": lose,
            }
            with Callers(f"http://127.0.0.1:{port}", callers, retries, pause, False) as load:
                time.sleep(quiet)
                rows = watch_each(events, load, quiet)
        finally:
            serve.shutdown()
            ray.shutdown()
            cluster.shutdown()
    report(rows, load.calls)


if __name__ == "__main__":
    app()
