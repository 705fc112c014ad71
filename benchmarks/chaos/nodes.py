"""`python -m benchmarks.chaos.nodes`: a cluster of two nodes is updated, scaled and robbed of a node under load.

Ray calls whatever has a raylet of its own a node. Each has an ingress replica; the tokenizers are on the second one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.report import report, watch_each
from benchmarks.service.two_nodes import LAYOUTS, OTHER, deploy, node_options, two_nodes, wait_ready
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
    with two_nodes(settings, "EveryNode") as cluster:

        def put(wanted: Settings) -> None:
            deploy(wanted, LAYOUTS[-1], is_stub=False)

        def lose() -> None:
            [lost] = cluster.worker_nodes
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(**node_options(OTHER, port + 3))
            wait_ready(port)

        put(settings)
        events: dict[str, Callable[[], None]] = {
            "rolling update, one tokenizer replica": lambda: put(updated),
            "one tokenizer replica more": lambda: put(two),
            "rolling update, two tokenizer replicas": lambda: put(updated.model_copy(update={"tokenizer_replicas": 2})),
            "one tokenizer replica less": lambda: put(updated),
            "SIGKILL of the tokenizers' node, and another": lose,
        }
        with Callers(f"http://127.0.0.1:{port}", callers, retries, pause, False) as load:
            time.sleep(quiet)
            rows = watch_each(events, load, quiet)
    report(rows, load.calls)


if __name__ == "__main__":
    app()
