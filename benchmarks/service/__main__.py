"""`python -m benchmarks.service`: load on a running service, with its figures, its CPU time and its baselines."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.rows import RowFile, markdown
from benchmarks.service.cpu import find_service
from benchmarks.service.load import Load, Run, run_load
from benchmarks.service.mixes import MIXES
from benchmarks.service.report import LateError, Summary, cpu_table, row, summarize, void_row

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
CONNECTIONS = 32  # in a closed loop
MOST_CONNECTIONS = 4096  # in an open one, and those of a second of it
VOID = 2  # exit status when a run cannot be reported


@app.command()
def main(
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    mix: Annotated[str, typer.Option(help=f"One of {', '.join(MIXES)}.")] = "img256",
    rate: Annotated[
        list[float] | None, typer.Option(help="Requests per second, open loop; repeat for a sweep.")
    ] = None,
    of_peak: Annotated[
        list[float] | None,
        typer.Option(help="Open loops at so many times the best rate of the closed ones; repeat for a sweep."),
    ] = None,
    connections: Annotated[
        list[int] | None,
        typer.Option(help="Without --rate: requests always in flight; repeat for a sweep. With it: the most at once."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of a run, the warm-up not counted.")] = 20.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of load that do not count.")] = 2.0,
    objective_ms: Annotated[float, typer.Option(help="Latency that goodput demands.")] = 100.0,
    late_ms: Annotated[
        float | None, typer.Option(help="By which requests may begin late; a twentieth of the objective by default.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = 30.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the generator.")] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals, kinds and contents.")] = 0,
    header: Annotated[list[str] | None, typer.Option(help="Further header line; may be repeated.")] = None,
    pid: Annotated[int | None, typer.Option(help="Process of the service; found by the port by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of rows, plots and figures.")] = Path("runs/service"),
    plots: Annotated[bool, typer.Option(help="Draw each run.")] = True,
    baselines: Annotated[bool, typer.Option(help="Then measure the baselines, in a closed loop.")] = False,
    bundle: Annotated[Path, typer.Option(help="Bundle of the baselines.")] = Path("bundles/demo-vq"),
    dtype: Annotated[str, typer.Option(help="Precision of the baselines.")] = "float32",
) -> None:
    """Load the service and print the tables. Rows are kept as npz, plots as PNG, figures as JSON."""
    from benchmarks.measure import describe_machine
    from benchmarks.service.plot import plot

    if rate and of_peak:
        raise typer.BadParameter("--of-peak measures the peak in a closed loop, so it goes without --rate.")
    if rate and len(connections or ()) > 1:
        raise typer.BadParameter("An open loop has one limit of connections.")
    out.mkdir(parents=True, exist_ok=True)
    closed = Load(url, mix, None, CONNECTIONS, seconds, warm_up, seed, timeout, processes, tuple(header or ()))
    if rate:
        limits = ((connections or [_most_connections(each)])[0] for each in rate)
        opened = zip(rate, limits, strict=True)
        loads = deque((f"{each:g}/s", replace(closed, rate=each, connections=limit)) for each, limit in opened)
    else:
        counts = connections or [CONNECTIONS]
        loads = deque((f"{each} connection{'s' * (each > 1)}", replace(closed, connections=each)) for each in counts)
    service, objective_s = pid or _find(closed), objective_ms / 1e3
    print(f"{describe_machine()}\nmix: {mix}, objective {objective_ms:g} ms, seed {seed}, {os.cpu_count()} cores")
    table = RowFile(out / "rows.json")
    peak, multiples, void = 0.0, list(of_peak or ()), False
    while loads:
        name, load = loads.popleft()
        run = run_load(load, service)
        stem = f"{out}/{mix.replace('/', '-')}-{name.replace('/', '-per-').replace(',', '').replace(' ', '-')}"
        np.savez_compressed(f"{stem}.npz", rows=run.rows)
        if plots:
            plot(run, objective_s, Path(f"{stem}.png"))
        cores = ", ".join(f"{used:.0%}" for used in run.client_cores)
        print(f"\n{name}: {cores} of a core for the generator")
        try:
            summary = summarize(run, objective_s, None if late_ms is None else late_ms / 1e3)
        except LateError as error:
            print(f"{name}: {error}", file=sys.stderr)
            table.add(void_row(name, run, error, table.rows[0] if table.rows else ()))
            void = True
            continue
        table.add(row(name, run, summary, objective_s))
        peak = max(peak, summary.rate)
        if not loads and multiples:
            for times in multiples:
                rated = float(f"{times * peak:.4g}")
                open_loop = replace(closed, rate=rated, connections=_most_connections(rated))
                loads.append((f"{times:g} times the peak, {rated:g}/s", open_loop))
            multiples = []
        Path(f"{stem}.json").write_text(json.dumps(_figures(run, summary), indent=1))
        for line in cpu_table(run) if run.cpu else ():
            print(line)
    if baselines:
        from benchmarks.service.baselines import engine_rate, measure

        print(f"\nbare engine, batches of equal size: {engine_rate(mix, bundle, dtype, seconds):.1f} requests/s")
        alone = replace(closed, connections=(connections or [CONNECTIONS])[0], headers=())
        for name, run in measure(alone, bundle, dtype):
            table.add(row(name, run, summarize(run, objective_s), objective_s))
    print()
    for line in markdown(table.rows):
        print(line)
    if void:
        raise typer.Exit(VOID)


def _most_connections(rate: float) -> int:
    """Return as many connections as an overloaded service may need: it answers or refuses within a second or two."""
    return max(MOST_CONNECTIONS, ceil(rate))


def _find(load: Load) -> int | None:
    try:
        return find_service(load.address[1])
    except (OSError, ProcessLookupError) as error:
        print(f"The service's CPU time is not measured: {error}", file=sys.stderr)
        return None


def _figures(run: Run, summary: Summary) -> dict[str, object]:
    return {
        "load": asdict(run.load),
        "summary": asdict(summary),
        "cpu": run.cpu,
        "cpu_answers": run.cpu_answers,
        "client_cores": run.client_cores,
        "gpu": run.gpu,
    }


if __name__ == "__main__":
    app()
