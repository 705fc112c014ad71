"""The descriptions of bundles: what can be known without torch, and without reading weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from model.bundle_files import (
    CLASSES_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    BundleConfig,
    BundleError,
    read_config,
    read_file,
)
from model.config_checks import ConfigError
from model.generator.config import GeneratorConfig, generator_config
from model.tokenizer.config import TokenizerConfig


@dataclass(frozen=True)
class BundleHeader:
    """The description of a bundle of any kind.

    Args:
        name: the folder's name.
        hash: content hash of config and weights, 64 hex digits; tokens travel with it.
        licence: licence of the weights, or None if not stated.
        weights_sha256: hash of the weights' file, which is not checked.
        parameters: number of weights.
    """

    name: str
    hash: str
    licence: str | None
    weights_sha256: str
    parameters: int


@dataclass(frozen=True)
class TokenizerHeader(BundleHeader):
    """The description of a tokenizer bundle.

    Args:
        config: the tokenizer's geometry.
    """

    config: TokenizerConfig


@dataclass(frozen=True)
class GeneratorHeader(BundleHeader):
    """The description of a generator bundle.

    Args:
        config: sizes of the network, and its defaults of sampling.
        tokenizer_hash: content hash of the tokenizer bundle whose codes or latents it makes.
        classes: a name for each class; an index is the class's id.
    """

    config: GeneratorConfig
    tokenizer_hash: str
    classes: tuple[str, ...]


def read_tokenizer(path: Path) -> TokenizerHeader:
    """Return the description of a tokenizer bundle.

    Raises:
        BundleError: the folder is not a tokenizer bundle.
    """
    record = read_config(path)
    if record.kind != "tokenizer":
        raise BundleError(f"{path} is a {record.kind} of tokenizer {record.tokenizer_hash}; name a tokenizer bundle.")
    with _naming_config(path):
        config = TokenizerConfig.from_dict(record.network)
    return TokenizerHeader(**_common(path, record), config=config)


def read_generator(path: Path) -> GeneratorHeader:
    """Return the description of a generator bundle.

    Raises:
        BundleError: the folder is not a generator bundle.
    """
    record = read_config(path)
    if record.tokenizer_hash is None:
        raise BundleError(f"{path} is a {record.kind}; name a generator bundle.")
    with _naming_config(path):
        config = generator_config(record.network)
    classes = check_classes(_read_classes(path, record), config.classes)
    common = _common(path, record)
    return GeneratorHeader(**common, config=config, tokenizer_hash=record.tokenizer_hash, classes=classes)


def check_classes(names: object, count: int) -> tuple[str, ...]:
    """Return the names of so many classes.

    Raises:
        BundleError: not one text for each class; several may have one name, as ImageNet's two cranes do.
    """
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise BundleError(f"The names of classes must be a list of texts, not {type(names).__name__}.")
    if len(names) != count:
        raise BundleError(f"There are {len(names)} names for {count} classes; give each class one.")
    for name in names:
        if not isinstance(name, str) or name != name.strip() or not name.isprintable() or not 1 <= len(name) <= 200:
            raise BundleError(f"The name of a class must be a line of 1 to 200 characters, not {name!r}.")
    return tuple(names)


@contextmanager
def _naming_config(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error


def _common(path: Path, record: BundleConfig) -> dict[str, Any]:
    """Return the fields of a `BundleHeader`."""
    return {
        "name": path.resolve().name,
        "hash": record.hash,
        "licence": record.licence,
        "weights_sha256": record.weights_sha256,
        "parameters": _count_parameters(path / WEIGHTS_FILE),
    }


def _read_classes(path: Path, record: BundleConfig) -> object:
    if record.classes_sha256 is None:
        return []
    data = read_file(path / CLASSES_FILE, record.classes_sha256)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path / CLASSES_FILE} is not JSON: {error}") from error


def _count_parameters(file: Path) -> int:
    if not file.is_file():
        raise BundleError(f"{file.parent} is not a whole bundle: it has no {file.name}.")
    try:
        with safe_open(file, "np") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise BundleError(f"{file} is damaged: it is not a safetensors file ({error}).") from error
