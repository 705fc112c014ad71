"""`python -m benchmarks.soak`: a service under gentle mixed load for an hour, and a verdict on its memory."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.service.process import METRICS, numbered_ports, serve, stop, wait_ready
from benchmarks.service.state import State, look
from benchmarks.soak.load import SoakLoad
from benchmarks.soak.memory import Sample, Samples, growths, plot, table
from media.limits import MIB

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
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
    ports = numbered_ports(port)
    url, metrics = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ports[METRICS]}/metrics"
    samples, log = Samples(out / "memory.csv"), out / "service.log"
    log.unlink(missing_ok=True)
    generators = {"OMNITOK_GENERATORS": json.dumps([str(generator.resolve())])} if generator else {}
    service = serve(log, ports | generators)
    try:
        wait_ready(url, service, log)
        with SoakLoad(url, rate, seed, sample_every if generator else 0) as load:
            started = time.monotonic()
            while (now := time.monotonic() - started) < 60 * minutes and service.poll() is None:
                with suppress(httpx.HTTPError):  # the exporter is slow on a busy machine; the next look may do
                    _sample(samples, look(service.pid, metrics), now)
                time.sleep(min(every, max(0.0, 60 * minutes - now)))
        time.sleep(LAG_SECONDS)
        state = look(service.pid, metrics)
    finally:
        status = stop(service)
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


def _sample(samples: Samples, state: State, seconds: float) -> None:
    for (pid, name), resident in state.resident.items():
        samples.add(Sample(round(seconds, 1), pid, name, resident / MIB, state.descriptors[name]))


if __name__ == "__main__":
    app()
