"""`python -m benchmarks.alerts`: faults of a running service, the alerts that fired for each, and how soon.

It starts a service and a Prometheus with deploy/prometheus, sends some of everything, draws the dashboards if asked,
and then does damage. Rules and intervals are those of production, so it takes a quarter of an hour. It needs root for
a small file system that a fault fills.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.alerts.load import Callers
from benchmarks.alerts.stack import Stack, stack
from benchmarks.rows import markdown_table
from benchmarks.service.process import ROOT

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
POLL_SECONDS = 2.0
REPLACEMENT_SECONDS = 40.0  # one that dies before it is ready is not counted as a start
TOKENIZER = r"ServeReplica:omnitok:Tokenizer"


@dataclass(frozen=True)
class Row:
    """One alert of one fault.

    Args:
        fault: what was done.
        alert: its name.
        seconds: from the fault until it fired; None if it did not.
        answered: queries of its runbook that had an answer while it fired, and how many there are.
    """

    fault: str
    alert: str
    seconds: float | None
    answered: tuple[int, int]


def runbook_answers(running: Stack, alert: str) -> tuple[int, int]:
    """Ask every query of an alert's runbook, and return how many have data, of how many."""
    text = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    queries = re.findall(r"promtool query instant \S+ '(.*)'$", text, re.MULTILINE)
    return sum(bool(running.prometheus.ask(query)) for query in queries), len(queries)


def observe(running: Stack, fault: str, alerts: set[str], began: float, seconds: float) -> Iterator[Row]:
    """Wait until alerts fire, and yield a row for each."""
    waiting = set(alerts)
    while waiting and time.monotonic() - began < seconds:
        for alert in sorted(running.prometheus.firing() & waiting):
            waiting.remove(alert)
            yield Row(fault, alert, time.monotonic() - began, runbook_answers(running, alert))
        time.sleep(POLL_SECONDS)
    for alert in sorted(waiting):
        yield Row(fault, alert, None, (0, 0))


def kill_proxy(running: Stack) -> Iterator[Row]:
    """End HAProxy once."""
    began = time.monotonic()
    running.kill(r"haproxy.* -f ")
    yield from observe(running, "SIGKILL of HAProxy", {"OmnitokEdgeRestarted"}, began, 60)


def kill_media_workers(running: Stack) -> Iterator[Row]:
    """End media workers over and over, while callers need them."""
    began = time.monotonic()
    with Callers(running.url, 16, "pictures", pause=0.01), _ended(running, r"^\S*python\S* -I -S -B -c ", 1.5):
        yield from observe(running, "SIGKILL of busy media workers", {"OmnitokMediaWorkersDie"}, began, 180)


def kill_tokenizers(running: Stack) -> Iterator[Row]:
    """End the only tokenizer over and over, each time after it is back."""
    began = time.monotonic()
    with Callers(running.url, 2), _ended(running, TOKENIZER, REPLACEMENT_SECONDS):
        fault = f"SIGKILL of the tokenizer every {REPLACEMENT_SECONDS:.0f} s"
        yield from observe(running, fault, {"OmnitokReplicasRestart"}, began, 420)


def overload(running: Stack) -> Iterator[Row]:
    """Send far more than the service can do, and take a target out of Prometheus meanwhile."""
    began = time.monotonic()
    running.prometheus.configure(without="ray")
    alerts = {
        *("OmnitokErrorBudgetFast", "OmnitokLatencyBudgetFast", "OmnitokShedding", "OmnitokQueueAge"),
        "OmnitokTargetMissing",
    }
    with Callers(running.url, 160, "clips", pause=0.01) as callers:
        for row in observe(running, "160 callers send clips", alerts, began, 600):
            missing = row.alert == "OmnitokTargetMissing"
            yield Row("job `ray` is not configured", *_rest(row)) if missing else row
    running.prometheus.configure()
    typer.echo(f"codes of the overload: {dict(callers.codes)}")


def fill_disk(running: Stack) -> Iterator[Row]:
    """Fill Ray's folder, and end the tokenizer, which cannot be replaced then."""
    began = time.monotonic()
    filler = running.disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**20))
                file.flush()
        except OSError:
            pass
    yield from observe(running, "the disk is full", {"OmnitokDiskFull"}, began, 150)
    began = time.monotonic()
    with _ended(running, TOKENIZER):
        fault = "the tokenizer dies whenever it starts, the disk is full"
        yield from observe(running, fault, {"OmnitokNoReplica", "OmnitokDegraded"}, began, 360)
    filler.unlink()


def kill_raylet(running: Stack) -> Iterator[Row]:
    """End the raylet; the service exits, and the supervisor waits for a while before it starts it again."""
    began = time.monotonic()
    running.restart_pause_seconds = 100.0
    running.kill(r"/raylet ")
    yield from observe(running, "SIGKILL of the raylet", {"OmnitokEdgeDown", "OmnitokUnreachable"}, began, 98)
    running.wait_ready()
    fault = "the supervisor starts the service after 100 s"
    yield from observe(running, fault, {"OmnitokRestarted"}, began, 240)


@contextmanager
def _ended(running: Stack, pattern: str, pause_seconds: float = 0.3) -> Iterator[None]:
    """End processes by SIGKILL whenever they appear, on a thread."""
    done = threading.Event()

    def end() -> None:
        while not done.wait(pause_seconds):
            running.kill(pattern)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _rest(row: Row) -> tuple[str, float | None, tuple[int, int]]:
    return row.alert, row.seconds, row.answered


FAULTS: dict[str, Callable[[Stack], Iterator[Row]]] = {
    "proxy": kill_proxy,
    "media": kill_media_workers,
    "tokenizers": kill_tokenizers,
    "overload": overload,
    "disk": fill_disk,
    "raylet": kill_raylet,
}


@app.command()
def main(
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of the dashboards.")] = None,
    minutes: Annotated[float, typer.Option(help="Of load before the first fault.")] = 5.0,
    only: Annotated[list[str] | None, typer.Option(help="Faults, by name; all by default.")] = None,
    bundle: Annotated[Path, typer.Option(help="Tokenizer.")] = Path("bundles/demo-vq"),
    generator: Annotated[Path, typer.Option(help="Generator.")] = Path("bundles/demo-lm"),
    folder: Annotated[Path | None, typer.Option(help="Of logs and Prometheus' data; a new one by default.")] = None,
) -> None:
    """Start everything, send some of everything, do damage, and print a table."""
    folder = folder or Path(tempfile.mkdtemp(prefix="omnitok-alerts-"))
    with stack(folder, bundle, generator) as running:
        typer.echo(f"service {running.url}, Prometheus {running.prometheus.url}, logs {folder}")
        with Callers(running.url, 5) as callers:
            time.sleep(60 * minutes)
        typer.echo(
            f"codes before any fault: {dict(callers.codes)}; firing: {sorted(running.prometheus.firing()) or 'none'}"
        )
        if pictures is not None:
            draw = [sys.executable, "-m", "benchmarks.dashboards.draw", f"--prometheus={running.prometheus.url}"]
            subprocess.run([*draw, f"--minutes={minutes:g}", f"--out={pictures}"], cwd=ROOT, check=True)
        columns = ("Fault", "Alert", "Fired after, s", "Queries of its runbook with data")
        for line in markdown_table(columns, _shown(running, only or FAULTS)):
            typer.echo(line)


def _shown(running: Stack, names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Do damage, and yield a row of the table for each alert that was waited for."""
    for name in names:
        with Callers(running.url, 2):
            for row in FAULTS[name](running):
                after = "not" if row.seconds is None else f"{row.seconds:.0f}"
                yield row.fault, row.alert, after, f"{row.answered[0]} of {row.answered[1]}"


if __name__ == "__main__":
    app()
