"""`omnitok rebind`: name a fine-tuned tokenizer in a generator's bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.bundle_header import read_generator, read_tokenizer
from training.cli.errors import exit_on_error


def rebind(
    generator: Annotated[Path, typer.Argument(help="Bundle of the generator, which is replaced.")],
    trained_on: Annotated[Path, typer.Option(help="Bundle of the tokenizer that it names now.")],
    tokenizer: Annotated[Path, typer.Option(help="Bundle of the fine-tuned tokenizer.")],
) -> None:
    """Let a generator's bundle name a fine-tuned tokenizer.

    It must have the encoder and the codes of the one that the generator was trained on; its decoder may differ.
    """
    with exit_on_error():
        read_generator(generator)
        for path in (trained_on, tokenizer):
            read_tokenizer(path)

        from model.bundle import rebind_generator

        typer.echo(f"{generator} is {rebind_generator(generator, trained_on, tokenizer)[:12]}")
