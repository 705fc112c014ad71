"""Generators and tokenizers that fit together: the codes or latents that one makes are those that the other decodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from model.bundle_files import CONFIG_FILE, BundleConfig, BundleError, read_config
from model.config_checks import ConfigError
from model.generator.config import LanguageModelConfig, generator_config
from model.tokenizer.config import TokenizerConfig, VQConfig


def check_compatible(generators: Iterable[Path], tokenizers: Iterable[Path]) -> None:
    """Compare each generator with its tokenizer, where that is among the tokenizers; weights are not read.

    Args:
        generators, tokenizers: folders of bundles.

    Raises:
        BundleError: a generator makes other codes or latents than its tokenizer has, or a config is not sound.
    """
    by_hash = {}
    for path in tokenizers:
        record = read_config(path)
        by_hash[record.hash] = path, record
    for path in generators:
        record = read_config(path)
        if record.tokenizer_hash in by_hash:
            tokenizer, own = by_hash[record.tokenizer_hash]
            makes, has = _made(path, record), _decoded(tokenizer, own)
            if makes != has:
                detail = f"{path} makes {makes}, and its tokenizer {tokenizer} has {has}."
                raise BundleError(f"{detail} Train or convert it anew for that one.")


def _made(path: Path, record: BundleConfig) -> str:
    try:
        config = generator_config(record.network)
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error
    return _codes(config.codes) if isinstance(config, LanguageModelConfig) else _latents(config.channels)


def _decoded(path: Path, record: BundleConfig) -> str:
    try:
        head = TokenizerConfig.from_dict(record.network).head
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error
    return _codes(head.codes) if isinstance(head, VQConfig) else _latents(head.dim)


def _codes(count: int) -> str:
    return f"{count} codes"


def _latents(channels: int) -> str:
    return f"latents of {channels} channels"
