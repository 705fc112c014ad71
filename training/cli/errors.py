"""Errors of the training commands."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from training.errors import TrainingError


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what training cannot go on with into one sentence and exit code 1."""
    from model.bundle_files import BundleError
    from model.codes.info import CodesError

    try:
        yield
    # An OSError is that of a full disk, say, and has the file's name.
    except (TrainingError, BundleError, CodesError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from error


def refuse_others(context: typer.Context, what: str, options: Collection[str]) -> None:
    """Refuse options of a command that would be ignored.

    Args:
        context: of the command.
        what: names in the error what takes no others, "A generator".
        options: the names of the parameters that it takes.

    Raises:
        TrainingError: others were given.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in options
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise TrainingError(f"{what} takes no {' and no '.join(given)}.")
