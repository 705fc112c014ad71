"""`python -m benchmarks.chaos`: kills and changes of a service under load, and what callers saw of each."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, TypeVar

import typer

from benchmarks.chaos.callers import Call, Callers
from benchmarks.chaos.events import EVENTS, WITH_JOBS
from benchmarks.rows import markdown_table
from benchmarks.service.state import State, look
from service.cluster.app import cluster, deploy
from service.settings import Settings

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
SETTLE_SECONDS = 90.0  # Ray keeps idle workers, and the exporter lags
COLUMNS = ("event", "happened", "over after, s", "calls", "failed", "longest gap, s", "slowest call, s")
TRANSIENT = {"IDLE", "log_monitor.py"}  # Ray's spare workers come and go, and it keeps logs of dead ones open
DESCRIPTORS_FACTOR, DESCRIPTORS_SPARE = 1.1, 20  # sockets between Ray's processes come and go


Made = TypeVar("Made")


@dataclass(frozen=True)
class Row:
    """The view that callers had of one event.

    Args:
        title: of the event.
        seconds: until it was over.
        calls: that ran meanwhile and shortly after.
        failed: of them, by error.
        gap: longest time without an answer, seconds.
        slowest: call, seconds.
    """

    title: str
    seconds: float
    calls: int
    failed: Counter[str]
    gap: float
    slowest: float


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


def table(rows: Sequence[Row], calls: Sequence[Call]) -> Iterator[str]:
    """Return the lines of a Markdown table of the events, and their sum."""
    return markdown_table(COLUMNS, _shown(rows, calls))


def _shown(rows: Sequence[Row], calls: Sequence[Call]) -> Iterator[tuple[object, ...]]:
    for title in dict.fromkeys(row.title for row in rows):
        same = [row for row in rows if row.title == title]
        failed = sum((row.failed for row in same), Counter[str]())
        seconds = " / ".join(f"{row.seconds:.1f}" for row in same)
        errors = "; ".join(f"{count} x {error}" for error, count in failed.most_common(3)) or "0"
        ran, gap = sum(row.calls for row in same), max(row.gap for row in same)
        slowest = max(row.slowest for row in same)
        yield title, len(same), seconds, ran, errors, f"{gap:.1f}", f"{slowest:.1f}"
    failures = sum(bool(call.error) for call in calls)
    slowest = max(call.ended - call.begun for call in calls)
    yield "all", len(rows), "", len(calls), failures, "", f"{slowest:.1f}"


def report(rows: Sequence[Row], calls: Sequence[Call]) -> None:
    """Print the table of the events.

    Raises:
        typer.Exit: with 1, if a call failed.
    """
    for line in table(rows, calls):
        print(line)
    if any(call.error for call in calls):
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


def watch(title: str, happen: Callable[[], Made], load: Callers, quiet: float) -> tuple[Row, Made]:
    """Return the calls while something happens and for `quiet` seconds after it, and what it returned."""
    begun = time.monotonic()
    made = happen()
    over = time.monotonic()
    time.sleep(quiet)
    end = time.monotonic()
    calls = load.between(begun, end)
    answers = sorted((begun, end, *(call.ended for call in calls if not call.error)))
    gap = max(later - earlier for earlier, later in pairwise(answers))
    failed = Counter(call.error for call in calls if call.error)
    slowest = max((call.ended - call.begun for call in calls), default=0.0)
    return Row(title, over - begun, len(calls), failed, gap, slowest), made


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
