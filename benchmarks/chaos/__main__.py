"""`python -m benchmarks.chaos`: kills and changes of a service under load, and what callers saw of each."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.events import EVENTS, WITH_JOBS
from benchmarks.chaos.report import table, watch
from benchmarks.service.state import State, look
from service.cluster.app import deploy
from service.cluster.local import cluster
from service.settings import Settings

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
SETTLE_SECONDS = 90.0  # Ray keeps idle workers, and the exporter lags
TRANSIENT = {"IDLE", "log_monitor.py"}  # Ray's spare workers come and go, and it keeps logs of dead ones open
DESCRIPTORS_FACTOR, DESCRIPTORS_SPARE = 1.1, 20  # sockets between Ray's processes come and go


@app.command()
def main(
    seed: Annotated[int, typer.Option(help="Decides order and victims.")] = 0,
    rounds: Annotated[int, typer.Option(help="Times that each event happens.")] = 2,
    callers: Annotated[int, typer.Option(help="Calls at a time.")] = 4,
    retries: Annotated[int | None, typer.Option(help="Of each call; the client's own number by default.")] = None,
    pause: Annotated[float, typer.Option(help="Seconds between the calls of a caller.")] = 0.05,
    quiet: Annotated[float, typer.Option(help="Seconds of load after each event.")] = 10.0,
    bundle: Annotated[Path, typer.Option(help="Tokenizer.")] = Path("bundles/demo-vq"),
    generator: Annotated[
        Path | None, typer.Option(help="Generator, whose samples and jobs are among the calls.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the API; the next one is for metrics.")] = 8320,
) -> None:
    """Start a service, let things happen to it under load, and print a table; the status is 1 if a call failed."""
    settings = Settings(
        bundles=(bundle,),
        generators=(generator,) if generator else (),
        port=port,
        metrics_port=port + 1,
        ray_metrics_port=port + 2,
        tokenizer_replicas=2,
        torch_threads=1,
        max_queue_seconds=30.0,  # a replica less is not a reason to refuse on a machine without spare cores
    )
    rng = random.Random(seed)
    kinds = (*EVENTS, *WITH_JOBS) if generator else EVENTS
    events = [event for _ in range(rounds) for event in rng.sample(kinds, len(kinds))]
    with TemporaryDirectory() as folder, cluster(settings):
        # The owner of the jobs is killed too, and what it keeps must outlive it.
        first = settings = settings.model_copy(update={"jobs_folder": Path(folder)})
        deploy(settings)
        observe = partial(look, os.getpid(), f"http://127.0.0.1:{settings.metrics_port}/metrics")
        call = partial(Callers, f"http://127.0.0.1:{port}", callers, retries, pause, generator is not None)
        with call():
            time.sleep(quiet)
        before = _settled(observe, None)
        rows = []
        with call() as load:
            for event in events:
                happen = partial(event.happen, os.getpid(), rng, settings, deploy)
                row, settings = watch(event.title, happen, load, quiet)
                rows.append(row)
                print(f"{row.title}: {row.calls} calls, {row.failed.total()} failed, {row.seconds:.1f} s", flush=True)
            if settings != first:
                deploy(first)
                time.sleep(quiet)
        after = _settled(observe, before)
    wrong = list(differences(before, after))
    for line in (*table(rows, load.calls), "", *(wrong or ["Afterwards everything is as before."])):
        print(line)
    if wrong or any(call.error for call in load.calls):
        raise typer.Exit(1)


def differences(before: State, after: State) -> Iterator[str]:
    """Yield a sentence for each thing that did not come back to what it was."""
    for name, value in after.gauges.items():
        if value:
            yield f"The gauge {name} is {value:g}, not 0."
    for name in sorted({*before.processes, *after.processes} - TRANSIENT):
        if before.processes[name] != after.processes[name]:
            yield f"There are {after.processes[name]} processes {name}; {before.processes[name]} were before."
        most = before.descriptors[name] * DESCRIPTORS_FACTOR + DESCRIPTORS_SPARE
        if after.descriptors[name] > most:
            yield f"{name} has {after.descriptors[name]} descriptors; {before.descriptors[name]} were before."
    if before.arenas != after.arenas:
        yield f"{after.arenas} arenas are mapped; {before.arenas} were before."


def _settled(observe: Callable[[], State], before: State | None) -> State:
    """Return the state once it does not change any more, and is that of before."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last = None
    while True:
        state = observe()
        same = state if before is None else before
        is_settled = last is not None and state.processes == last.processes and not any(differences(same, state))
        if is_settled or time.monotonic() > deadline:
            return state
        last = state
        time.sleep(3.0)


if __name__ == "__main__":
    app()
