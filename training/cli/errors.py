"""Errors of the training commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from training.errors import TrainingError


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what training cannot go on with into one sentence and exit code 1."""
    from model.bundle import BundleError

    try:
        yield
    except (TrainingError, BundleError, OSError) as error:  # the last as of a full disk, with the file's name
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error
