"""Generators and tokenizers that fit together: the codes or latents that one makes are those that the other decodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from model.bundle_files import BundleError
from model.bundle_header import read_generator, read_tokenizer
from model.generator.config import GeneratorConfig, LanguageModelConfig
from model.tokenizer.config import VAEConfig, VQConfig


def check_compatible(generators: Iterable[Path], tokenizers: Iterable[Path]) -> None:
    """Compare each generator with its tokenizer, where that is among the tokenizers; weights are not read.

    Args:
        generators, tokenizers: folders of bundles.

    Raises:
        BundleError: a generator makes other codes or latents than its tokenizer has, or a bundle is not sound.
    """
    by_hash = {}
    for path in tokenizers:
        tokenizer = read_tokenizer(path)
        by_hash[tokenizer.hash] = path, tokenizer.config.head
    for path in generators:
        generator = read_generator(path)
        if generator.tokenizer_hash in by_hash:
            speaks, head = by_hash[generator.tokenizer_hash]
            makes, has = _made(generator.config), _decoded(head)
            if makes != has:
                detail = f"{path} makes {makes}, and its tokenizer {speaks} has {has}."
                raise BundleError(f"{detail} Train or convert it anew for that one.")


def _made(config: GeneratorConfig) -> str:
    return _codes(config.codes) if isinstance(config, LanguageModelConfig) else _latents(config.channels)


def _decoded(head: VQConfig | VAEConfig) -> str:
    return _codes(head.codes) if isinstance(head, VQConfig) else _latents(head.dim)


def _codes(count: int) -> str:
    return f"{count} codes"


def _latents(channels: int) -> str:
    return f"latents of {channels} channels"
