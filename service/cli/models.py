"""`omnitok models`: bundles of tokenizers and generators, here or of a service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.errors import CommandError
from service.cli.options import DEFAULT_BUNDLE, KeyOption, ServerOption, TokenizerLocation, bundles_in, choose_bundle

if TYPE_CHECKING:
    from service.types import GeneratorCard, ModelCard


def models(
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle",
            "-b",
            help="Bundle folder; repeat for more.",
            show_default=f"all in {DEFAULT_BUNDLE.parent}",
        ),
    ] = None,
    server: ServerOption = None,
    api_key: KeyOption = None,
) -> None:
    """List the bundles of a service, or describe bundle folders."""
    if server is not None:
        TokenizerLocation(bundle[0] if bundle else None, server).check(None)
        from service.cli.remote import connected, failures

        with connected(server, api_key) as client, failures():
            cards, generators = client.models(), client.generators()
    else:
        cards, generators = _read(bundle or bundles_in(choose_bundle(None).parent))
    _print(cards, generators)


def _read(bundles: list[Path]) -> tuple[list[ModelCard], list[GeneratorCard]]:
    from model.bundle_files import BundleError, read_config
    from model.bundle_header import read_generator, read_tokenizer
    from service.engine.card import generator_card, model_card
    from service.engine.lane import LaneOptions

    options = LaneOptions(slots=2, prefill_tokens=1)
    cards, generators = [], []
    try:
        for path in bundles:
            if read_config(path).kind == "generator":
                generators.append(generator_card(read_generator(path), "cpu", options))
            else:
                cards.append(model_card(read_tokenizer(path), "cpu", "float32"))
    except BundleError as error:
        raise CommandError(str(error)) from error
    return cards, generators


def _print(cards: Sequence[ModelCard], generators: Sequence[GeneratorCard]) -> None:
    from service.cli.tables import print_table

    names = {card.hash: card.id for card in cards}
    tokenizers = [
        (
            card.id,
            f"{card.latent_channels} channels" if card.codebook_size is None else str(card.codebook_size),
            f"{card.temporal_patch}x{card.patch}x{card.patch}",
            "streams" if card.streaming else "whole clips",
            f"{card.parameters / 1e6:.1f} M",
            card.licence or "-",
            card.hash[:12],
        )
        for card in cards
    ]
    makers = [
        (
            maker.id,
            maker.kind,
            ", ".join(maker.makes),
            str(maker.class_count),
            f"{maker.parameters / 1e6:.1f} M",
            maker.licence or "-",
            names.get(maker.tokenizer_hash, maker.tokenizer_hash[:12]),
        )
        for maker in generators
    ]
    if tokenizers:
        print_table(("model", "codes", "patch", "time", "weights", "licence", "hash"), tokenizers)
    if tokenizers and makers:
        print()
    if makers:
        print_table(("generator", "kind", "makes", "classes", "weights", "licence", "tokenizer"), makers)
