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

from kernels.autotune.search import RAGGED, Contest, Outcome, graph_clock
from kernels.autotune.table import FOLDER, Search, Size, Table, dtype_name, entry, gpu_stem, read_table, write_table
from kernels.runtime.device import HAS_TRITON

OPERATORS = (
    "linear",
    "window_attention",
    "temporal_attention",
    "peg",
    "vq",
    "projection",
    "norm",
    "patches",
    "spatial_attention",
    "bounded_attention",
)
DTYPE = torch.bfloat16  # what a GPU serves and trains in
GRIDS = ((1, 1, 32, 32), (1, 5, 16, 16), (4, 1, 32, 32), (1, 5, 32, 32), (8, 5, 16, 16), (16, 1, 32, 32),
         (8, 5, 32, 32), (64, 1, 32, 32))  # fmt: skip


class Config(StrEnum):
    """Whose widths the tiles are for."""

    published = "published"
    demo = "demo"


WIDTHS = {
    Config.published: {"channels": 512, "heads": 8, "hidden": 1408},
    Config.demo: {"channels": 256, "heads": 4, "hidden": 704},
}


def searches() -> list[Search[Any]]:
    """Return the searches of all operators; imports triton."""
    return [search for name in OPERATORS for search in import_module(f"kernels.{name}.launch").SEARCHES]


def sizes(grids: Iterable[tuple[int, int, int, int]], config: Config) -> list[Size]:
    """Calls of a network on these grids."""
    return [Size(*grid, **WIDTHS[config]) for grid in grids]


def tune(
    out: Annotated[Path | None, typer.Option(help="File of tiles; by default the one that this GPU reads.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this operator; may be repeated.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Begin nothing more after so long.")] = None,
    config: Annotated[
        Config, typer.Option(help="Whose widths the tiles are for; a file holds one.")
    ] = Config.published,
) -> None:
    """Find the fastest tiles of every kernel on this GPU, and write them down for serving and training."""
    console = Console(stderr=True, soft_wrap=True)
    if (reason := _unable()) is not None:
        _fail(console, reason)
    wanted = searches()
    known = sorted({_operator(search) for search in wanted})
    if unknown := sorted(set(only or ()) - set(known)):
        _fail(console, f"there is no operator {', '.join(unknown)}; known are {', '.join(known)}")
    chosen = [search for search in wanted if not only or _operator(search) in only]
    gpu = torch.cuda.get_device_name()
    path = out or FOLDER / f"{gpu_stem(gpu)}.json"
    versions = {"torch": torch.__version__, "triton": import_module("triton").__version__}
    table = read_table(path) if path.is_file() else {}
    found: dict[str, list[Outcome]] = {}

    def keep(name: str, outcomes: list[Outcome]) -> None:
        found[name] = outcomes
        merge(table, name, outcomes)
        write_table(path, gpu, versions, table)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    stopped = False
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen) * len(GRIDS))

        def tell(line: str) -> None:
            progress.console.print(escape(line), highlight=False)

        def step(name: str) -> None:
            progress.update(task, description=name, advance=1)

        deadline = None if seconds is None else time.monotonic() + seconds
        contests = [Contest(search, tell, graph_clock) for search in chosen]
        try:
            hold_all(contests, config, torch.device("cuda"), deadline, step, keep)
        except KeyboardInterrupt:
            stopped = True
    _show(found)
    console.print(f"{len(found)} of {len(chosen)} launches are written to {path}", highlight=False, markup=False)
    if stopped:
        raise typer.Exit(130)
    if not found:
        raise typer.Exit(1)


def hold_all(
    contests: Sequence[Contest],
    config: Config,
    device: torch.device,
    deadline: float | None,
    step: Callable[[str], None],
    keep: Callable[[str, list[Outcome]], None],
) -> None:
    """Search launch by launch; a launch that is not through at the deadline, or whose default fails, is not kept.

    Args:
        contests: one for each launch.
        config: whose widths.
        device: where to run.
        deadline: of `time.monotonic`, or None.
        step: told of every size of a launch.
        keep: takes the name of a launch that is through, and what was found.
    """
    for contest in contests:
        outcomes: list[Outcome] = []
        try:
            contest.qualify(sizes(RAGGED, config), DTYPE, device)
            for size in sizes(GRIDS, config):
                if deadline is not None and time.monotonic() > deadline:
                    return
                step(contest.search.name)
                outcome = contest.hold(size, DTYPE, device)
                if outcome is not None:
                    outcomes.append(outcome)
        except Exception as error:
            contest.tell(f"{contest.search.name} is left as it was: {type(error).__name__}: {error}")
            continue
        keep(contest.search.name, outcomes)


def merge(table: Table, name: str, outcomes: Sequence[Outcome]) -> None:
    """Put what was found for a launch in the place of what the table knew, one entry for neighbours that agree."""
    dtypes = {dtype_name(outcome.dtype) for outcome in outcomes}
    entries = [old for old in table.get(name, []) if old["dtype"] not in dtypes]
    by_rows = {(dtype_name(outcome.dtype), outcome.rows): outcome for outcome in outcomes}
    ordered = [by_rows[key] for key in sorted(by_rows)]
    for outcome, following in zip(ordered, [*ordered[1:], None], strict=True):
        if following is None or (following.dtype, following.tile) != (outcome.dtype, outcome.tile):
            entries.append(entry(outcome.dtype, outcome.rows, outcome.tile))
    table[name] = entries


def _unable() -> str | None:
    if not torch.cuda.is_available():
        return "tiles are found on the GPU that they are for, and this machine has none"
    if not HAS_TRITON:
        return "triton is not installed"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def _fail(console: Console, sentence: str) -> NoReturn:
    console.print(f"[bold red]error:[/] {escape(sentence)}", highlight=False)
    raise typer.Exit(1)


def _operator(search: Search[Any]) -> str:
    return search.name.partition(".")[0]


def _show(found: dict[str, list[Outcome]]) -> None:
    lines = Lines("launch", "rows", "default, us", "found, us", "tile")
    for name, outcomes in found.items():
        for outcome in outcomes:
            numbers = "/".join(str(value) for value in asdict(outcome.tile).values())
            lines.add_row(name, str(outcome.rows), f"{outcome.before:.1f}", f"{outcome.after:.1f}", numbers)
    if found:
        Console().print(lines)
