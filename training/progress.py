"""Progress of a run on the terminal: a live line, and one line per row of its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(console: Console, step: int) -> Iterator[Callable[[float, int], None]]:
    """Show a line below the log on a terminal, nothing elsewhere.

    Args:
        console: for the line.
        step: the steps that were done before.

    Yields:
        A function to call with the share of the stage that is done, and the step.
    """
    columns = (
        TextColumn("step {task.fields[step]}"), BarColumn(), TaskProgressColumn("{task.percentage:.1f} %"),
        TextColumn("{task.fields[rate]:.1f} steps/s"), TimeElapsedColumn(),
    )  # fmt: skip
    begun = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=1.0, step=step, rate=0.0)

        def update(share: float, now: int) -> None:
            rate = (now - step) / max(time.monotonic() - begun, 1e-9)
            progress.update(bar, completed=share, step=now, rate=rate)

        yield update


def format_row(stage: str, row: dict[str, Any], share: float, metrics: Sequence[str]) -> str:
    """Format a row of the trainer's table for people.

    Args:
        stage: name of the stage.
        row: of the table.
        share: of the stage that is done.
        metrics: the row's metrics for people.
    """
    parts = [
        f"{stage} step {row['step']:>6} {min(share, 1.0):6.1%}",
        f"{row['kind']:>6} of {row['resolution']}",
        *metrics,
    ]
    return "  ".join([*parts, f"{row['steps_per_second']:.1f} steps/s"])
