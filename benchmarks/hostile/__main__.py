"""`python -m benchmarks.hostile`: damaged and hostile input through the sandbox, and through a running service."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.hostile import in_sandbox, over_http
from benchmarks.hostile.corpus import FormCorpus, MediaCorpus
from benchmarks.hostile.outcomes import Rows, faults, table
from benchmarks.hostile.trace import Tracer
from benchmarks.service.cpu import find_service, snapshot

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
SIZE = "64"  # large files are decoded whole; a slow tokenizer need not take part
WORKER = "media worker"
Seed = Annotated[int, typer.Option(help="Decides every case.")]
Out = Annotated[Path, typer.Option(help="Folder of the rows; the same command goes on with a run that was stopped.")]
Folders = Annotated[list[Path] | None, typer.Option("--files", help="Folder of further files to damage; repeat.")]


@app.command()
def sandbox(
    count: Annotated[int, typer.Option(help="Files.")] = 2000,
    seed: Seed = 0,
    files: Folders = None,
    trace: Annotated[bool, typer.Option(help="Watch the workers' system calls with strace.")] = True,
    out: Out = Path("runs/hostile"),
) -> None:
    """Decode hostile files in media workers of this process."""
    rows = Rows(out / f"sandbox-{seed}.jsonl")
    with ExitStack() as stack:
        tracer = stack.enter_context(Tracer(out / "strace.txt", [os.getpid()])) if trace else None
        replaced = asyncio.run(in_sandbox.run(MediaCorpus(seed, tuple(files or ())), range(count), rows))
    _report(rows, f"workers replaced: {dict(replaced)}")
    _report_calls(tracer)


@app.command()
def http(
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    count: Annotated[int, typer.Option(help="Files.")] = 2000,
    forms: Annotated[int, typer.Option(help="Bodies of other forms.")] = 1000,
    seed: Seed = 0,
    files: Folders = None,
    trace: Annotated[bool, typer.Option(help="Watch its media workers with strace; it runs on this machine.")] = False,
    out: Out = Path("runs/hostile"),
) -> None:
    """Send hostile files and bodies to a running service."""
    bundle = httpx.get(f"{url}/models", timeout=30).json()["models"][0]["hash"]
    media, bodies = Rows(out / f"http-{seed}.jsonl"), Rows(out / f"forms-{seed}.jsonl")
    with ExitStack() as stack:
        tracer = stack.enter_context(_watch(url, out / f"strace-http-{seed}.txt")) if trace else None
        over_http.run(url, MediaCorpus(seed, tuple(files or ()), SIZE).case, range(count), media)
        over_http.run(url, FormCorpus(seed, bundle).case, range(forms), bodies)
    _report(media, "files")
    _report(bodies, "bodies of other forms")
    _report_calls(tracer)


def _watch(url: str, path: Path) -> Tracer:
    """Return a tracer of the media workers of a service, those that come later too."""
    processes = snapshot(find_service(httpx.URL(url).port or 80))
    ingress, workers = ([pid for pid, one in processes.items() if one.name == name] for name in ("Ingress", WORKER))
    return Tracer(path, ingress, workers)


def _report_calls(tracer: Tracer | None) -> None:
    if tracer is not None:
        seen = tracer.result()
        print(f"{len(seen.workers)} workers; attempted: {dict(seen.attempts)}; allowed: {dict(seen.successes)}")
        if seen.successes:
            raise typer.Exit(1)


def _report(rows: Rows, title: str) -> None:
    print(title)
    for line in (*table(rows.rows), *faults(rows.rows)):
        print(line)
    if any(row.fault for row in rows.rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
