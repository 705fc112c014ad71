"""The tables of `omnitok data inspect`."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from training.data.files import Source, find_sources
from training.data.inspection import FRAMES, SIDE, Inspection, inspect
from training.errors import TrainingError

MAX_ROWS = 20


def show_files(path: Path, most: int, fps: float | None, workers: int) -> None:
    """Decode files of a folder and print tables.

    Args:
        path: the folder.
        most: files of each kind to decode; 0 for all.
        fps: frames per second of clips, as recorded if None.
        workers: processes.

    Raises:
        TrainingError: there are no files, labels are wrong, or no file of a kind can be decoded.
    """
    console = Console(soft_wrap=True)
    for source in find_sources(path):
        if source is None:
            continue
        found = _inspect(source, most, fps, workers)
        console.print(_summary(found, fps))
        classes = sorted(found.classes.items(), key=lambda row: -row[1])
        broken = [*source.damaged, *((probe.place, probe.broken) for probe in found.broken)]
        if classes:
            rest = sum(count for _, count in classes[MAX_ROWS:])
            console.print(_table(("class", "files"), [(name, f"{count:,}") for name, count in classes], f"{rest:,}"))
        if broken:
            console.print(_table(("broken", "reason"), broken, ""))
        if not found.whole:
            raise TrainingError(f"None of {len(found.probes)} {source.kind} of {path} can be decoded.")


def _inspect(source: Source, most: int, fps: float | None, workers: int) -> Inspection:
    errors = Console(stderr=True)
    columns = (TextColumn("decoding {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task(source.kind, total=min(most or len(source), len(source)))
        return inspect(source, most, fps, workers, lambda done: progress.update(task, completed=done))


def _summary(found: Inspection, fps: float | None) -> Table:
    source, whole = found.source, found.whole
    table = Table(title=source.kind, show_header=False, title_justify="left")
    table.add_row("files", f"{len(source):,}" + (f" in {len(source.shards):,} shards" if source.shards else ""))
    table.add_row("decoded here", f"{len(found.probes):,}")
    table.add_row("broken", f"{len(found.broken):,}")
    if whole:
        table.add_row("shorter side, pixels", _spread([min(probe.width, probe.height) for probe in whole]))
        table.add_row("longer side, pixels", _spread([max(probe.width, probe.height) for probe in whole]))
        table.add_row(f"smaller than {SIDE}: enlarged", str(sum(min(p.width, p.height) < SIDE for p in whole)))
        if source.kind == "clips":
            table.add_row("length, seconds", _spread([probe.seconds for probe in whole]))
            table.add_row("frames per second", _spread([probe.rate for probe in whole]))
            table.add_row(f"shorter than {FRAMES} frames: last one stays", str(found.short(fps)))
        unit = "squares" if source.kind == "images" else f"windows of {FRAMES} frames"
        table.add_row("decoded per second and core", f"{found.rate:,.1f} {unit} of {SIDE} pixels")
    table.add_row("classes", f"{len(found.classes):,}" if found.classes else "none")
    return table


def _spread(values: list[float] | list[int]) -> str:
    low, middle, high = (f"{value:,.6g}" for value in (min(values), median(values), max(values)))
    return f"{low} to {high}, median {middle}" if low != high else low


def _table(header: tuple[str, str], rows: list[tuple[str, str]], rest: str) -> Table:
    """Return a table of the first rows, and a last one with the number of the others."""
    table = Table(*header)
    for row in rows[:MAX_ROWS]:
        table.add_row(*map(escape, row))
    if len(rows) > MAX_ROWS:
        table.add_row(f"{len(rows) - MAX_ROWS:,} more", rest)
    return table
