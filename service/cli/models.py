"""`omnitok models`: what can be encoded with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.errors import CommandError
from service.cli.options import ServerOption, TokenizerLocation, choose_bundle

if TYPE_CHECKING:
    from service.types import ModelCard


def models(
    bundle: Annotated[list[Path] | None, typer.Option("--bundle", "-b", help="Bundle folder; repeat for more.")] = None,
    server: ServerOption = None,
) -> None:
    """List the bundles of a service, or describe bundle folders."""
    if server is not None:
        TokenizerLocation(bundle[0] if bundle else None, server).check(None)
        from service.cli.remote import failures
        from service.client import Client

        with failures(), Client(server) as client:
            cards = client.models()
    else:
        cards = _read(bundle or [choose_bundle(None)])
    _print(cards)


def _read(bundles: list[Path]) -> list[ModelCard]:
    from model.bundle import BundleError
    from service.engine.tokenizer import Engine

    try:
        return Engine(bundles, device="cpu", dtype="float32", threads=1).cards
    except (BundleError, ValueError) as error:
        raise CommandError(str(error)) from error


def _print(cards: list[ModelCard]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "codes", "patch", "time", "weights", "licence", "hash")
    for card in cards:
        table.add_row(
            card.id,
            f"{card.latent_channels} channels" if card.codebook_size is None else str(card.codebook_size),
            f"{card.temporal_patch}x{card.patch}x{card.patch}",
            "streams" if card.streaming else "whole clips",
            f"{card.parameters / 1e6:.1f} M",
            card.licence or "-",
            card.hash[:12],
        )
    Console(soft_wrap=True).print(table)
