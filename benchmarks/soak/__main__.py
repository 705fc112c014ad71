"""`python -m benchmarks.soak`: a service under gentle mixed load for an hour, and a verdict on its memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.service.state import State, look
from benchmarks.soak.load import SoakLoad
from benchmarks.soak.memory import MIB, Sample, Samples, growths, plot, table

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
START_SECONDS = 300.0
STOP_SECONDS = 120.0
LAG_SECONDS = 15.0  # of Ray's exporter


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="Length of the run.")] = 60.0,
    warm_up: Annotated[float, typer.Option(help="Minutes at the start that do not count.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Rounds of calls per second; a round is one to four requests.")] = 2.0,
    sample_every: Annotated[int, typer.Option(help="Rounds between two samples of the generator; 0 for none.")] = 20,
    limit_mib: Annotated[float, typer.Option(help="Growth that a process may have after the warm-up.")] = 20.0,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the processes.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the contents.")] = 0,
    generator: Annotated[Path | None, typer.Option(help="Generator; none for a service without.")] = None,
    port: Annotated[int, typer.Option(help="Of the API; the next one is for metrics.")] = 8330,
    out: Annotated[Path, typer.Option(help="Folder of the table and the plot.")] = Path("runs/soak"),
) -> None:
    """Run the service and its load; the status is 1 if something was lost or a process grew too much."""
    out.mkdir(parents=True, exist_ok=True)
    url, metrics = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}/metrics"
    variables = {
        "OMNITOK_PORT": str(port),
        "OMNITOK_METRICS_PORT": str(port + 1),
        "OMNITOK_RAY_METRICS_PORT": str(port + 2),
    }
    command = [sys.executable, "-c", "from service.cli import main; main()", "serve"]
    command += ["--generator", str(generator)] if generator else []
    samples = Samples(out / "memory.csv")
    with (out / "service.log").open("w") as log:
        service = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(url, service)
            with SoakLoad(url, rate, seed, sample_every if generator else 0) as load:
                started = time.monotonic()
                while (now := time.monotonic() - started) < 60 * minutes and service.poll() is None:
                    with suppress(httpx.HTTPError):  # the exporter is slow on a busy machine; the next look may do
                        _sample(samples, look(service.pid, metrics), now)
                    time.sleep(min(every, max(0.0, 60 * minutes - now)))
            time.sleep(LAG_SECONDS)
            state = look(service.pid, metrics)
        finally:
            service.send_signal(signal.SIGTERM)
            status = service.wait(STOP_SECONDS)
    rows = list(growths(samples.samples, 60 * warm_up))
    plot(samples.samples, 60 * warm_up, out / "memory.png")
    faults = [f"{count} x {sentence}" for sentence, count in load.faults.most_common()]
    faults += [f"{row.name} {row.pid} grew by {row.mib:.1f} MiB." for row in rows if row.mib > limit_mib]
    faults += [f"The gauge {name} is {value:g} at the end, not 0." for name, value in state.gauges.items() if value]
    faults += [f"The service ended with status {status}."] if status else []
    for line in (*table(rows), "", f"rounds: {dict(load.rounds)}", *(faults or ["Nothing was lost, nothing grew."])):
        print(line)
    (out / "verdict.json").write_text(json.dumps({"rounds": dict(load.rounds), "faults": faults}, indent=1))
    if faults:
        raise typer.Exit(1)


def _wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and service.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"The service at {url} is not ready; its log is beside the table.")


def _sample(samples: Samples, state: State, seconds: float) -> None:
    for (pid, name), resident in state.resident.items():
        samples.add(Sample(round(seconds, 1), pid, name, resident / MIB, state.descriptors[name]))


if __name__ == "__main__":
    app()
