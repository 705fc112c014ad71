"""Bundles: folders with a typed config, safetensors and a model card. One writer, one loader, never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from model.bundle_files import (
    CARD_FILE,
    CLASSES_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    BundleConfig,
    BundleError,
    digest,
    read_config,
    read_file,
    write_bundle,
)
from model.config_checks import ConfigError
from model.generator.config import GeneratorConfig, generator_config
from model.generator.networks import Generator, make_generator
from model.tokenizer.config import TokenizerConfig
from model.tokenizer.tokenizer import OmniTokenizer, is_encoding_weight
from model.weights import WeightsError, build_network

__all__ = [
    "Bundle",
    "BundleConfig",
    "BundleError",
    "GeneratorBundle",
    "check_classes",
    "load_bundle",
    "load_generator",
    "read_config",
    "rebind_generator",
    "save_bundle",
    "save_generator",
]


@dataclass(frozen=True)
class Bundle:
    """A loaded tokenizer bundle.

    Args:
        name: the folder's name.
        hash: content hash of config and weights, 64 hex digits; tokens travel with it.
        config: the tokenizer's geometry.
        licence: licence of the weights, or None if not stated.
        tokenizer: in evaluation mode, on the device and in the precision that were asked for.
    """

    name: str
    hash: str
    config: TokenizerConfig
    licence: str | None
    tokenizer: OmniTokenizer


@dataclass(frozen=True)
class GeneratorBundle:
    """A loaded generator bundle.

    Args:
        name, hash, licence: as of a tokenizer's.
        config: sizes of the network, and its defaults of sampling.
        tokenizer_hash: content hash of the tokenizer bundle whose codes or latents it makes.
        classes: a name for each class; an index is the class's id.
        generator: in evaluation mode, on the device and in the precision that were asked for.
    """

    name: str
    hash: str
    config: GeneratorConfig
    licence: str | None
    tokenizer_hash: str
    classes: tuple[str, ...]
    generator: Generator


def save_bundle(
    path: str | Path,
    tokenizer: OmniTokenizer,
    card: str,
    licence: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a tokenizer's bundle; a folder that is there is a whole one, old or new.

    Args:
        path: folder to write; an existing bundle there is replaced, anything else is refused.
        tokenizer: the model, on any device.
        card: the model card (data, licence, recipe, metrics), Markdown.
        licence: licence of the weights.
        dtype: precision of the stored weights; half precision halves the file and rounds once.

    Returns:
        The content hash.

    Raises:
        BundleError: `path` exists and is not a bundle.
    """
    weights = _weights_of(tokenizer, dtype)
    config = BundleConfig("tokenizer", tokenizer.config.to_dict(), digest(weights), licence)
    return write_bundle(Path(path), config, {WEIGHTS_FILE: weights, CARD_FILE: card.encode()})


def save_generator(
    path: str | Path,
    generator: Generator,
    card: str,
    tokenizer_hash: str,
    classes: Sequence[str] = (),
    licence: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a generator's bundle, as `save_bundle` does a tokenizer's.

    Args:
        path, card, licence, dtype: as for `save_bundle`.
        generator: the network, on any device.
        tokenizer_hash: content hash of the tokenizer bundle whose codes or latents it makes.
        classes: a name for each class; an index is the class's id.

    Returns:
        The content hash.

    Raises:
        BundleError: `path` exists and is not a bundle, or the names are not those of the config's classes.
    """
    check_classes(classes, generator.config.classes)
    weights, files = _weights_of(generator, dtype), {}
    if classes:
        files[CLASSES_FILE] = (json.dumps(list(classes), indent=1, ensure_ascii=False) + "\n").encode()
    config = BundleConfig(
        "generator",
        generator.config.to_dict(),
        digest(weights),
        licence,
        tokenizer_hash,
        digest(files[CLASSES_FILE]) if classes else None,
    )
    return write_bundle(Path(path), config, {WEIGHTS_FILE: weights, CARD_FILE: card.encode(), **files})


def rebind_generator(path: str | Path, trained_on: str | Path, tokenizer: str | Path) -> str:
    """Name another tokenizer in a generator's bundle: one with the same codes, whose decoder was trained further.

    Args:
        path: the generator's bundle, which is replaced; its weights stay byte for byte.
        trained_on: the tokenizer bundle that it names.
        tokenizer: the one that it shall name.

    Returns:
        The generator's content hash.

    Raises:
        BundleError: a folder is not such a bundle, the generator names neither tokenizer, or the two encode by other
            weights.
    """
    path = Path(path)
    record, old, new = read_config(path), load_bundle(trained_on), load_bundle(tokenizer)
    if record.kind != "generator":
        raise BundleError(f"{path} is a {record.kind}; name a generator bundle.")
    if record.tokenizer_hash == new.hash:
        return record.hash
    if record.tokenizer_hash != old.hash:
        raise BundleError(f"{path} names the tokenizer {record.tokenizer_hash}, not {trained_on} ({old.hash}).")
    if changed := _first_encoding_difference(old.tokenizer, new.tokenizer):
        raise BundleError(f"{tokenizer} encodes unlike {trained_on}: its {changed} is another. Train {path} anew.")
    files = {WEIGHTS_FILE: read_file(path / WEIGHTS_FILE, record.weights_sha256)}
    if record.classes_sha256 is not None:
        files[CLASSES_FILE] = read_file(path / CLASSES_FILE, record.classes_sha256)
    card = (path / CARD_FILE).read_text(encoding="utf-8") if (path / CARD_FILE).is_file() else ""
    files[CARD_FILE] = card.replace(
        f"({old.hash[:12]})", f"({new.hash[:12]}, with the codes of {old.hash[:12]})"
    ).encode()
    return write_bundle(path, replace(record, tokenizer_hash=new.hash), files)


def _first_encoding_difference(one: OmniTokenizer, other: OmniTokenizer) -> str | None:
    """Return the name of the first weight by which two tokenizers encode differently, or "config"; None for none."""
    if one.config != other.config:
        return "config"
    ours, theirs = one.state_dict(), other.state_dict()
    encoding = (name for name in ours if is_encoding_weight(name))
    return next((name for name in encoding if not torch.equal(ours[name], theirs[name])), None)


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


def _weights_of(network: nn.Module, dtype: torch.dtype) -> bytes:
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    return save_safetensors(tensors)


def _read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(read_file(path / WEIGHTS_FILE, expected))
    except SafetensorError as error:
        raise BundleError(f"{path / WEIGHTS_FILE} is not a safetensors file: {error}") from error


def _read_json(file: Path, expected: str) -> object:
    data = read_file(file, expected)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is not JSON: {error}") from error


@contextmanager
def _naming_files(path: Path) -> Iterator[None]:
    """Name the file of a bundle whose content is refused."""
    try:
        yield
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error
    except WeightsError as error:
        raise BundleError(f"{path / WEIGHTS_FILE}: {error}") from error


def load_bundle(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """Load a tokenizer bundle.

    Args:
        path: the folder.
        device: where the model shall run.
        dtype: precision of encoder and decoder; the head stays in float32, since codes are decided there.

    Raises:
        BundleError: the folder is not a tokenizer bundle, or was damaged or changed.
    """
    path = Path(path)
    record = read_config(path)
    if record.kind != "tokenizer":
        raise BundleError(f"{path} is a {record.kind} of tokenizer {record.tokenizer_hash}; name a tokenizer bundle.")
    weights = _read_weights(path, record.weights_sha256)
    with _naming_files(path):
        config = TokenizerConfig.from_dict(record.network)
        tokenizer = build_network(lambda: OmniTokenizer(config), weights)
    tokenizer.encoder.to(dtype)
    tokenizer.decoder.to(dtype)
    tokenizer.to(device).eval().requires_grad_(False)
    return Bundle(path.resolve().name, record.hash, config, record.licence, tokenizer)


def load_generator(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> GeneratorBundle:
    """Load a generator bundle.

    Args:
        path: the folder.
        device: where the network shall run.
        dtype: precision of its weights.

    Raises:
        BundleError: the folder is not a generator bundle, or was damaged or changed.
    """
    path = Path(path)
    record = read_config(path)
    if record.kind != "generator" or record.tokenizer_hash is None:
        raise BundleError(f"{path} is a {record.kind}; name a generator bundle.")
    weights = _read_weights(path, record.weights_sha256)
    with _naming_files(path):
        config = generator_config(record.network)
        generator = build_network(lambda: make_generator(config), weights)
    names = [] if record.classes_sha256 is None else _read_json(path / CLASSES_FILE, record.classes_sha256)
    classes = check_classes(names, config.classes)
    generator.to(device, dtype)
    name = path.resolve().name
    return GeneratorBundle(name, record.hash, config, record.licence, record.tokenizer_hash, classes, generator)
