"""`python -m benchmarks.ablations`: train and measure the paper's ablations in small, and print their tables."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.ablations.runner import Job, gather, read_json, run_all
from benchmarks.ablations.tables import TABLES, markdown
from benchmarks.ablations.variants import STEPS, variants
from model.atomic_write import replace_file
from training.cli.errors import exit_on_error
from training.errors import TrainingError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
FIGURES = Path("docs/reproduction.json")
Figures = Annotated[Path, typer.Option(help="File of all figures.")]


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="Folder of `omnitok data build demo`.")] = Path("data/demo"),
    networks: Annotated[Path, typer.Option(help="Folder of `omnitok data networks`.")] = Path("data/networks"),
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/ablations"),
    figures: Figures = FIGURES,
    steps: Annotated[int, typer.Option(help="Steps of every run; table 10 adds half as many.")] = STEPS,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every run.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Run this variant only; may be repeated.")] = None,
    parallel: Annotated[int, typer.Option(help="Processes on the device; each holds the data in memory.")] = 1,
    pause_after: Annotated[float, typer.Option(help="Stop with checkpoints after this many seconds.")] = math.inf,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.")] = None,
) -> None:
    """Train and measure what is missing; what was stopped goes on, what is done stays."""
    with exit_on_error():
        known = variants(steps)
        if unknown := sorted(set(only or ()) - set(known)):
            raise TrainingError(f"there are no variants {unknown}; known are {', '.join(known)}")
        deadline = time.time() + pause_after
        # the longest first, so that none is left to run alone; a whole seed before the next
        names = sorted(only or known, key=lambda name: -len(known[name].shown))
        jobs = [
            Job(name, seed, steps, data, networks, out, device, deadline) for seed in range(seeds) for name in names
        ]
        whole = run_all(jobs, parallel, Console(stderr=True, soft_wrap=True))
        if whole:
            figures.parent.mkdir(parents=True, exist_ok=True)
            replace_file(figures, json.dumps(gather(out)).encode() + b"\n")
    typer.echo(f"wrote {figures}" if whole else "stopped; the same command goes on")


@app.command()
def table(figures: Figures = FIGURES) -> None:
    """Print the paper's tables with our figures next to its own, in Markdown."""
    with exit_on_error():
        runs = read_json(figures)["runs"]
        for one in TABLES:
            typer.echo(f"Table {one.number}\n\n{markdown(one, runs)}\n")


if __name__ == "__main__":
    app()
