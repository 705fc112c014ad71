"""`omnitok rebind`: name a fine-tuned tokenizer in a generator's bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.cli.errors import exit_on_error


def rebind(
    generator: Annotated[Path, typer.Argument(help="Bundle of the generator, which is replaced.")],
    trained_on: Annotated[Path, typer.Option(help="Bundle of the tokenizer that it names.")],
    tokenizer: Annotated[Path, typer.Option(help="Bundle of the tokenizer that it shall name.")],
) -> None:
    """Name another tokenizer in a generator's bundle: one with the same encoder and codes, whose decoder differs."""
    from model.bundle import rebind_generator

    with exit_on_error():
        typer.echo(f"{generator} is {rebind_generator(generator, trained_on, tokenizer)[:12]}")
