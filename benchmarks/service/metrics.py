"""`python -m benchmarks.service.metrics`: what counting costs a request, and what a scrape costs the exporter."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest

from service.finished_request import FinishedRequest
from service.metrics.collectors import ProcessesCollector
from service.metrics.folder import join
from service.metrics.http import IngressMetrics
from service.metrics.tokenizer import TokenizerMetrics

CALLS, ROUNDS = 2000, 15
NOTES = {"model": "m", "frames": 1, "positions": 256, "decode_ms": 3, "queue_ms": 1, "compute_ms": 12, "render_ms": 0.1}

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(processes: Annotated[int, typer.Option(help="Processes that a scrape adds up.")] = 4) -> None:
    """Print microseconds of the processor's time, the least of several rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ready, done = multiprocessing.Barrier(processes + 1), multiprocessing.Event()
        others = [multiprocessing.Process(target=_count, args=(folder, ready, done)) for _ in range(processes)]
        for process in others:
            process.start()
        ready.wait()
        registry = CollectorRegistry()
        registry.register(ProcessesCollector(folder))
        print(f"scrape of {processes} processes: {_least(lambda: generate_latest(registry), 1):,.0f} µs")
        done.set()
        for process in others:
            process.join()
        join(folder)
        ingress, tokenizer = IngressMetrics("i"), TokenizerMetrics("t", ["m"], 1)

        def at_ingress() -> None:
            ingress.in_flight("/encode", 1)
            ingress.called("link")
            ingress.in_flight("/encode", -1)
            ingress.observe(FinishedRequest("/encode", "POST", 200, 0.017, 14_000, 393, None, NOTES))

        def at_tokenizer() -> None:
            tokenizer.queue(1, 256, 1.0)
            tokenizer.queue(0, 0, None)
            tokenizer.done("encode", 1, 256, "m", 1)

        print(f"request at the ingress: {_least(at_ingress, CALLS):.1f} µs")
        print(f"request at the tokenizer: {_least(at_tokenizer, CALLS):.1f} µs")


def _count(folder: Path, ready: multiprocessing.synchronize.Barrier, done: multiprocessing.synchronize.Event) -> None:
    join(folder)
    IngressMetrics("i").observe(FinishedRequest("/encode", "POST", 200, 0.017, 14_000, 393, None, NOTES))
    TokenizerMetrics("t", ["m"], 1)
    ready.wait()
    done.wait()


def _least(work: Callable[[], object], calls: int) -> float:
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            work()
        taken.append((time.process_time() - started) / calls)
    return 1e6 * min(taken)


if __name__ == "__main__":
    app()
