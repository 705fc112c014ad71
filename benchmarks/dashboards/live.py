"""`python -m benchmarks.dashboards.live`: a Prometheus for a running service, mixed load, and its dashboards.

Ports are read from the same variables as the service's: OMNITOK_METRICS_PORT, OMNITOK_RAY_METRICS_PORT and
RAY_SERVE_HAPROXY_METRICS_PORT.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.alerts.load import Callers
from benchmarks.prometheus import Prometheus
from benchmarks.rows import RowFile
from benchmarks.service.load import Load, run_load
from benchmarks.service.process import EDGE_METRICS, METRICS, RAY_METRICS, ROOT
from service.cluster.ray_environment import HAPROXY_PORTS
from service.settings import Settings

SCRAPE_SECONDS = 10.0  # of deploy/prometheus
CALLERS = 8  # of everything there is
ANSWERED = "sum by (route, code) (increase(omnitok_http_requests_total[{seconds}s])) > 0"


def main(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    mix: Annotated[str, typer.Option(help="As for `benchmarks.service`.")] = "mix80/20",
    connections: Annotated[int, typer.Option(help="Requests of the mix always in flight.")] = 16,
    seconds: Annotated[float, typer.Option(help="Of load.")] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder of the pictures and rows.")] = Path("runs/dashboards"),
) -> None:
    """Load a running service while Prometheus reads it, and draw every dashboard."""
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings()
    ports = {
        METRICS: str(settings.metrics_port),
        RAY_METRICS: str(settings.ray_metrics_port),
        EDGE_METRICS: os.environ.get(EDGE_METRICS, str(HAPROXY_PORTS[EDGE_METRICS])),
    }
    with tempfile.TemporaryDirectory(prefix="omnitok-prometheus-") as folder, Prometheus(Path(folder), ports) as watch:
        begun = time.time()
        with Callers(url, CALLERS) as callers:
            run_load(Load(url, mix, None, connections, seconds, warm_up=0.0))
        time.sleep(SCRAPE_SECONDS)  # the last seconds of the load count too
        minutes = (time.time() - begun) / 60
        table = RowFile(out / "rows.json")
        for row in watch.ask(ANSWERED.format(seconds=round(60 * minutes))):
            labels = row["metric"]
            table.add(
                {name: labels.get(name, "-") for name in ("route", "code")} | {"seen": f"{float(row['value'][1]):,.0f}"}
            )
        draw = [sys.executable, "-m", "benchmarks.dashboards.draw", f"--prometheus={watch.url}"]
        subprocess.run([*draw, f"--minutes={minutes}", f"--out={out}"], cwd=ROOT, check=True)
    print(f"codes of {CALLERS} callers: {dict(callers.codes)}")


if __name__ == "__main__":
    typer.run(main)
