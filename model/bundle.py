"""Bundles: folders with a typed config, safetensors and a model card. One writer, one loader, never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from model.bundle_files import (
    CARD_FILE,
    CLASSES_FILE,
    WEIGHTS_FILE,
    BundleConfig,
    BundleError,
    digest,
    read_config,
    read_file,
    write_bundle,
)
from model.bundle_header import (
    BundleHeader,
    GeneratorHeader,
    TokenizerHeader,
    check_classes,
    read_generator,
    read_tokenizer,
)
from model.generator.networks import Generator, make_generator
from model.tokenizer.tokenizer import OmniTokenizer, is_encoding_weight
from model.weights import Network, WeightsError, build_network

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
class Bundle(TokenizerHeader):
    """A loaded tokenizer bundle.

    Args:
        tokenizer: in evaluation mode, on the device and in the precision that were asked for.
    """

    tokenizer: OmniTokenizer


@dataclass(frozen=True)
class GeneratorBundle(GeneratorHeader):
    """A loaded generator bundle.

    Args:
        generator: in evaluation mode, on the device and in the precision that were asked for.
    """

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


def _weights_of(network: nn.Module, dtype: torch.dtype) -> bytes:
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    return save_safetensors(tensors)


def _build(path: Path, header: BundleHeader, make: Callable[[], Network]) -> Network:
    """Build a network on the CPU, with the weights of a bundle.

    Raises:
        BundleError: they are damaged, or another network's.
    """
    weights = load_safetensors(read_file(path / WEIGHTS_FILE, header.weights_sha256))
    try:
        return build_network(make, weights)
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
    header = read_tokenizer(path)
    tokenizer = _build(path, header, lambda: OmniTokenizer(header.config))
    tokenizer.encoder.to(dtype)
    tokenizer.decoder.to(dtype)
    tokenizer.to(device).eval().requires_grad_(False)
    return Bundle(**vars(header), tokenizer=tokenizer)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> GeneratorBundle:
    """Load a generator bundle in float32.

    Args:
        path: the folder.
        device: where the network shall run.

    Raises:
        BundleError: the folder is not a generator bundle, or was damaged or changed.
    """
    path = Path(path)
    header = read_generator(path)
    generator = _build(path, header, lambda: make_generator(header.config))
    generator.to(device, torch.float32)
    return GeneratorBundle(**vars(header), generator=generator)
