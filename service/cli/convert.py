"""`omnitok convert`: a published checkpoint becomes a bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.cli.errors import CommandError


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC.ckpt", help="A published tokenizer checkpoint.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The bundle folder to write.")],
    additive_bias: Annotated[
        bool | None,
        typer.Option(
            help="Whether the file was trained without fused attention; left out, its name and contents decide."
        ),
    ] = None,
) -> None:
    """Turn a published tokenizer checkpoint into a bundle, without running anything that the file holds."""
    from rich.console import Console

    from model.bundle import BundleError
    from model.convert.omnitokenizer import ConversionError, convert_checkpoint

    try:
        report = convert_checkpoint(source, destination, additive_bias)
    except (BundleError, ConversionError) as error:
        raise CommandError(str(error)) from error
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{destination}: {len(report.kept)} tensors, hash {report.hash}")
    for reason, count in Counter(report.dropped.values()).items():
        console.print(f"  left out {count} tensors: {reason}")
