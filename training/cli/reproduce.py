"""`omnitok reproduce`: the paper's ablations in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.cli.errors import told

reproduce = typer.Typer(
    help="The paper's ablations (tables 7 to 10) in small.", no_args_is_help=True, pretty_exceptions_enable=False
)
Out = Annotated[Path, typer.Option(help="Folder of the runs.")]
Data = Annotated[Path, typer.Option(help="Folder of the data of `omnitok data build demo`.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is one by default.")]
Parallel = Annotated[int, typer.Option(help="Processes that share the device; each holds the data in its memory.")]
Figures = Annotated[Path, typer.Option(help="File of all figures.")]
OUT, DATA, FIGURES = Path("runs/reproduction"), Path("data/demo"), Path("docs/reproduction.json")


@reproduce.command()
def train(
    data: Data = DATA,
    out: Out = OUT,
    steps: Annotated[int | None, typer.Option(help="Steps of every run; table 10 adds half as many.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of every run.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Train this variant only; may be repeated.")] = None,
    parallel: Parallel = 1,
    pause_after: Annotated[float | None, typer.Option(help="Stop with checkpoints after this many seconds.")] = None,
    device: Device = None,
) -> None:
    """Train what is missing; what was stopped goes on, what is done stays."""
    import math
    import time

    from training.errors import TrainingError
    from training.reproduction.run import Job, run_all
    from training.reproduction.variants import STEPS, variants

    with told():
        length = STEPS if steps is None else steps
        known = variants(length)
        if unknown := sorted(set(only or ()) - set(known)):
            raise TrainingError(f"there are no variants {unknown}; known are {', '.join(known)}")
        if seeds < 1:
            raise TrainingError(f"every variant is trained from at least one seed, not {seeds}")
        if pause_after is not None and not pause_after > 0:
            raise TrainingError(f"--pause-after must be positive, not {pause_after}")
        deadline = math.inf if pause_after is None else time.time() + pause_after
        # the longest first, so that none is left to run alone; a whole seed before the next
        names = sorted((name for name in known if not only or name in only), key=lambda name: -len(known[name].shown))
        jobs = [Job(name, seed, length, data, out, device, deadline) for seed in range(seeds) for name in names]
        whole = run_all(jobs, parallel, Console(stderr=True, soft_wrap=True))
    typer.echo(f"{len(jobs)} runs are done in {out}" if whole else "stopped; the same command goes on")


@reproduce.command()
def measure(
    data: Data = DATA,
    out: Out = OUT,
    networks: Annotated[Path, typer.Option(help="Folder of `omnitok data networks`.")] = Path("data/networks"),
    figures: Figures = FIGURES,
    parallel: Parallel = 1,
    device: Device = None,
) -> None:
    """Measure every bundle that a table shows on the held-out sets; write the figures of all runs to one file."""
    import json

    from training.data.shards import replace_file
    from training.reproduction.measure import gather, measure_all, measurements

    with told():
        jobs = measurements(out, data, networks, device)
        measure_all(jobs, parallel, Console(stderr=True, soft_wrap=True))
        figures.parent.mkdir(parents=True, exist_ok=True)
        replace_file(figures, json.dumps(gather(out)).encode() + b"\n")
    typer.echo(f"wrote {figures}")


@reproduce.command()
def report(
    figures: Figures = FIGURES,
    docs: Annotated[Path, typer.Option(help="Folder of the report; its pictures go to images/ in it.")] = Path("docs"),
) -> None:
    """Write reproduction.md and its pictures from the figures."""
    from training.reproduction.report import write_report
    from training.reproduction.results import read_results

    with told():
        typer.echo(f"wrote {write_report(read_results(figures), docs)}")
