"""`omnitok tune`: find the tiles for the GPU of this machine, before serving."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Lines

from kernels.autotune.search import ODD_GRIDS, LaunchTuner, TuneResult, graph_clock
from kernels.autotune.table import (
    CONFIG_DIR,
    ProblemSize,
    Table,
    TuningSpace,
    dtype_name,
    gpu_stem,
    read_table,
    table_entry,
    write_table,
)
from kernels.runtime.device import HAS_TRITON, MIN_CAPABILITY

OPERATORS = (
    "linear",
    "window_attention",
    "temporal_attention",
    "peg",
    "vq",
    "projection",
    "adaptive_norm",
    "frame_attention",
    "sequence_attention",
    "norm",
    "patches",
    "spatial_attention",
    "attention_fixed_max",
)
DTYPE = torch.bfloat16  # serving and training use it on a GPU
GRIDS = ((1, 1, 32, 32), (1, 5, 16, 16), (4, 1, 32, 32), (1, 5, 32, 32), (8, 5, 16, 16), (16, 1, 32, 32),
         (8, 5, 32, 32), (64, 1, 32, 32))  # fmt: skip


class Config(StrEnum):
    """A named geometry that sets the widths."""

    published = "published"
    demo = "demo"


WIDTHS = {
    Config.published: {"channels": 512, "heads": 8, "hidden": 1408},
    Config.demo: {"channels": 256, "heads": 4, "hidden": 704},
}


def tuning_spaces() -> list[TuningSpace[Any]]:
    """Return the tuning spaces of all operators; imports triton."""
    return [space for name in OPERATORS for space in import_module(f"kernels.{name}.launch").TUNING_SPACES]


def sizes(grids: Iterable[tuple[int, int, int, int]], config: Config) -> list[ProblemSize]:
    """Return the problem sizes of a network on these grids."""
    return [ProblemSize(*grid, **WIDTHS[config]) for grid in grids]


def tune(
    out: Annotated[Path | None, typer.Option(help="Output file; by default the one that this GPU reads.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Tune only this operator; may be repeated.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Start no further size after this time.")] = None,
    config: Annotated[Config, typer.Option(help="Geometry that sets the widths; a file holds one.")] = Config.published,
) -> None:
    """Find the fastest tiles of every kernel on this GPU and save them for serving and training."""
    console = Console(stderr=True, soft_wrap=True)
    if (reason := _unsupported()) is not None:
        _fail(console, reason)
    spaces = tuning_spaces()
    known = sorted({_operator(space) for space in spaces})
    if unknown := sorted(set(only or ()) - set(known)):
        _fail(console, f"The operators {', '.join(unknown)} are unknown; use some of {', '.join(known)}.")
    chosen = [space for space in spaces if not only or _operator(space) in only]
    gpu = torch.cuda.get_device_name()
    path = out or CONFIG_DIR / f"{gpu_stem(gpu)}.json"
    versions = {"torch": torch.__version__, "triton": import_module("triton").__version__}
    table = read_table(path) if path.is_file() else {}
    found: dict[str, list[TuneResult]] = {}

    def save(name: str, results: list[TuneResult]) -> None:
        found[name] = results
        merge(table, name, results)
        write_table(path, gpu, versions, table)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    interrupted = False
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen) * len(GRIDS))

        def log(line: str) -> None:
            progress.console.print(escape(line), highlight=False)

        def on_step(name: str) -> None:
            progress.update(task, description=name, advance=1)

        deadline = None if seconds is None else time.monotonic() + seconds
        tuners = [LaunchTuner(space, log, graph_clock) for space in chosen]
        try:
            tune_all(tuners, config, torch.device("cuda"), deadline, on_step, save)
        except KeyboardInterrupt:
            interrupted = True
    _print_results(found)
    console.print(f"Saved {len(found)} of {len(chosen)} launches to {path}.", highlight=False, markup=False)
    if interrupted:
        raise typer.Exit(130)
    if not found:
        raise typer.Exit(1)


def tune_all(
    tuners: Sequence[LaunchTuner],
    config: Config,
    device: torch.device,
    deadline: float | None,
    on_step: Callable[[str], None],
    save: Callable[[str, list[TuneResult]], None],
) -> None:
    """Tune launch by launch; a launch that misses the deadline, or whose default fails, is not saved.

    Args:
        tuners: one for each launch.
        config: sets the widths.
        device: where to run.
        deadline: of `time.monotonic`, or None.
        on_step: called with the launch's name before each size.
        save: called with the name and the results of each finished launch.
    """
    for tuner in tuners:
        name, results = tuner.space.name, []
        try:
            tuner.validate(sizes(ODD_GRIDS, config), DTYPE, device)
            for size in sizes(GRIDS, config):
                if deadline is not None and time.monotonic() > deadline:
                    return
                on_step(name)
                if (result := tuner.tune(size, DTYPE, device)) is not None:
                    results.append(result)
        except Exception as error:
            tuner.log(f"{name} keeps its tiles: {type(error).__name__}: {error}")
            continue
        save(name, results)


def merge(table: Table, name: str, results: Sequence[TuneResult]) -> None:
    """Replace a launch's entries by new results; neighbours with equal tiles become one entry."""
    dtypes = {dtype_name(result.dtype) for result in results}
    entries = [old for old in table.get(name, []) if old["dtype"] not in dtypes]
    by_rows = {(dtype_name(result.dtype), result.rows): result for result in results}
    ordered = [by_rows[key] for key in sorted(by_rows)]
    for result, following in zip(ordered, [*ordered[1:], None], strict=True):
        if following is None or (following.dtype, following.tile) != (result.dtype, result.tile):
            entries.append(table_entry(result.dtype, result.rows, result.tile))
    table[name] = entries


def _unsupported() -> str | None:
    if not torch.cuda.is_available():
        return "Tuning needs a GPU, and this machine has none; run it on the GPU that will serve."
    if not HAS_TRITON:
        return "Tuning needs triton, which is not installed; install the CUDA build of torch."
    if (found := torch.cuda.get_device_capability()) < MIN_CAPABILITY:
        return f"The GPU has compute capability {found[0]}.{found[1]}; the kernels need {MIN_CAPABILITY[0]}.0 or later."
    return None


def _fail(console: Console, sentence: str) -> NoReturn:
    console.print(f"[bold red]error:[/] {escape(sentence)}", highlight=False)
    raise typer.Exit(1)


def _operator(space: TuningSpace[Any]) -> str:
    return space.name.partition(".")[0]


def _print_results(found: dict[str, list[TuneResult]]) -> None:
    lines = Lines("launch", "rows", "default, us", "tuned, us", "tile")
    for name, results in found.items():
        for result in results:
            tile = "/".join(str(value) for value in asdict(result.tile).values())
            lines.add_row(name, str(result.rows), f"{result.default_us:.1f}", f"{result.best_us:.1f}", tile)
    if found:
        Console().print(lines)
