"""`omnitok convert`: a published checkpoint becomes a bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from service.cli.errors import CommandError


def convert(
    source: Annotated[Path, typer.Argument(help="A published checkpoint of a tokenizer or a generator.")],
    dest: Annotated[Path, typer.Argument(help="The bundle folder to write.")],
    additive_bias: Annotated[
        bool | None,
        typer.Option(
            help="Whether the file was trained without fused attention; left out, its name and contents decide."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="The tokenizer of a generator; needed where the file carries none."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of a generator's classes, a JSON list or one a line; else their ids."),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of a diffusion model, if it is none of the released kinds."),
    ] = None,
) -> None:
    """Turn a published checkpoint into a bundle, without running anything that the file holds.

    A language model that carries its tokenizer also yields that one's bundle, as DEST-tokenizer.
    """
    from rich.console import Console

    from model.bundle_files import BundleError
    from model.bundle_header import read_tokenizer

    try:  # before torch is loaded
        for file in filter(None, (source, classes)):
            file.open("rb").close()
        if tokenizer is not None:
            read_tokenizer(tokenizer)
    except BundleError as error:
        raise CommandError(str(error)) from error

    from model.convert.generator import convert_checkpoint, read_class_names
    from model.convert.published import ConversionError, ConversionReport

    try:
        names = None if classes is None else read_class_names(classes)
        report: ConversionReport | None = convert_checkpoint(source, dest, additive_bias, tokenizer, names, heads)
    except (BundleError, ConversionError) as error:
        raise CommandError(str(error)) from error
    console = Console(highlight=False, soft_wrap=True)
    while report is not None:
        console.print(f"{report.path}: {len(set(report.kept.values()))} tensors, hash {report.hash}")
        for reason, count in Counter(report.dropped.values()).items():
            console.print(f"  left out {count} {'tensor' if count == 1 else 'tensors'}: {reason}")
        report = report.tokenizer
