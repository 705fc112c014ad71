"""`python -m benchmarks.service.refusals`: CPU time of a refusal by an ingress application, without Ray and HAProxy.

The application runs in uvicorn in a process of its own, behind the layers that Ray's HTTP server has too. Its media
queue and its tokenizer are always full.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn

from benchmarks.measure import describe_machine
from benchmarks.service.load import Load, run_load
from benchmarks.service.process import free_port, python_path, stop, wait_ready
from service.api.app import create_app
from service.api.request_id import as_ray_serves
from service.drain_rate import retry_after
from service.errors import ProblemError
from service.metrics.folder import join
from service.metrics.http import IngressMetrics
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.types import ModelCard

MIXES = ("jpeg256", "img256")
QUEUE_SECONDS = 2.0
CARD = ModelCard("full", "0" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


class _FullBackend:
    async def models(self) -> list[ModelCard]:
        return [CARD]

    async def encode(self, *arguments: Any, **options: Any) -> None:
        raise _refusal()


class _FullPool(MediaPool):
    def check_load(self, caller: str, elsewhere: float = 0.0) -> None:
        raise _refusal()


def _refusal() -> ProblemError:
    return ProblemError("overloaded", "The queue is full.", 1, 2, [], retry_after(QUEUE_SECONDS))


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    connections: Annotated[int, typer.Option(help="Requests always in flight.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of a run.")] = 4.0,
    rounds: Annotated[int, typer.Option(help="Runs of each mix.")] = 3,
) -> None:
    """Print CPU microseconds a refusal, of each run."""
    if context.invoked_subcommand is not None:
        return
    print(describe_machine())
    port = free_port()
    command = (sys.executable, "-m", __spec__.name, "serve", str(port))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=os.environ | python_path(), stdout=output, stderr=output)
        try:
            wait_ready(f"http://127.0.0.1:{port}", server, log, path="/health/live")
            for mix in MIXES:
                print(
                    mix, ", ".join(f"{_cost(port, server.pid, mix, connections, seconds):.0f}" for _ in range(rounds))
                )
        finally:
            stop(server)


@app.command()
def serve(port: int) -> None:
    """Serve the application until a signal."""
    with tempfile.TemporaryDirectory() as folder:
        join(Path(folder))
        settings = Settings(log=Path(folder) / "log", open_access=True)
        pool = _FullPool(settings.limits, 1)
        service = create_app(_FullBackend(), pool, settings, IngressMetrics("full"))  # type: ignore[arg-type]
        uvicorn.run(as_ray_serves(service), port=port, lifespan="off", access_log=False, log_level="error")


def _cost(port: int, pid: int, mix: str, connections: int, seconds: float) -> float:
    run = run_load(Load(f"http://127.0.0.1:{port}", mix, None, connections, seconds, warm_up=0.5), pid)
    done = run.rows["done"]
    refused = (run.rows["status"] == 503) & (done >= run.load.warm_up) & (done < run.load.warm_up + seconds)
    return 1e6 * sum(spent for _, spent in run.cpu.values()) / max(1, int(refused.sum()))


if __name__ == "__main__":
    app()
