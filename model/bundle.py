"""Bundles: the folder in which a trained tokenizer travels. One writer, one loader, never pickle."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from model.tokenizer.config import ConfigError, TokenizerConfig
from model.tokenizer.tokenizer import OmniTokenizer
from model.tokenizer.weights import WeightsError, build_tokenizer

FORMAT = "omnitok-tokenizer/1"
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


class BundleError(ValueError):
    """A folder that is not a sound bundle, in one sentence."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _content_hash(record: dict[str, Any]) -> str:
    """Hash of a config record without its own `hash`; the record holds the hash of the weights."""
    body = {key: value for key, value in record.items() if key != "hash"}
    return _digest(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def save_bundle(
    path: str | Path,
    tokenizer: OmniTokenizer,
    card: str,
    licence: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a bundle; a folder that is there is a whole one, old or new.

    Args:
        path: folder to write; an existing bundle there is replaced, anything else is refused.
        tokenizer: the model, on any device.
        card: the model card (data, licence, recipe, figures), Markdown.
        licence: licence of the weights.
        dtype: precision of the stored weights; half precision halves the file and rounds once.

    Returns:
        The content hash.

    Raises:
        BundleError: `path` exists and is not a bundle.
    """
    path = Path(path)
    _check_replaceable(path)
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in tokenizer.state_dict().items()}
    weights = save_safetensors(tensors)
    record: dict[str, Any] = {
        "format": FORMAT,
        "licence": licence,
        "tokenizer": tokenizer.config.to_dict(),
        "weights_sha256": _digest(weights),
    }
    record["hash"] = _content_hash(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh = Path(scratch) / "bundle"
        fresh.mkdir()
        (fresh / WEIGHTS_FILE).write_bytes(weights)
        (fresh / CARD_FILE).write_text(card, encoding="utf-8")
        (fresh / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        old = Path(scratch) / "old"
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    return record["hash"]


def _check_replaceable(path: Path) -> None:
    """Refuse to write over anything but a bundle or an empty folder."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise BundleError(f"{path} exists and is not a folder: not replaced")
    names = {entry.name for entry in path.iterdir()}
    if names - {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE}:
        raise BundleError(f"{path} exists and is not a bundle, or holds more than one: not replaced")
    if names:
        _read_record(path)


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError(f"{path} is not a bundle: there is no such folder")
    if not (path / CONFIG_FILE).is_file():
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}")
    try:
        record = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path / CONFIG_FILE} is not JSON: {error}") from error
    keys = {"format", "licence", "tokenizer", "weights_sha256", "hash"}
    if not isinstance(record, dict) or set(record) != keys:
        raise BundleError(f"{path / CONFIG_FILE} must hold exactly the keys {sorted(keys)}")
    if record["format"] != FORMAT:
        raise BundleError(f"{path} has format {record['format']!r}; this version reads {FORMAT!r}")
    if record["hash"] != _content_hash(record):
        raise BundleError(f"{path / CONFIG_FILE} was changed after it was written: its hash does not fit")
    if record["licence"] is not None and not isinstance(record["licence"], str):
        raise BundleError(f"{path / CONFIG_FILE}: licence must be a text or null")
    return record


def _read_weights(path: Path, expected: str) -> dict[str, Tensor]:
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise BundleError(f"{path} is not a whole bundle: it has no {WEIGHTS_FILE}")
    data = file.read_bytes()
    if _digest(data) != expected:
        raise BundleError(f"{file} is damaged: its content is not what {CONFIG_FILE} was written for")
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise BundleError(f"{file} is not a safetensors file: {error}") from error


def load_bundle(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """Load a bundle.

    Args:
        path: the folder.
        device: where the model shall run.
        dtype: precision of encoder and decoder; the head stays in float32, since codes are decided there.

    Raises:
        BundleError: the folder is not a bundle, or was damaged or changed.
    """
    path = Path(path)
    record = _read_record(path)
    weights = _read_weights(path, record["weights_sha256"])
    try:
        config = TokenizerConfig.from_dict(record["tokenizer"])
        tokenizer = build_tokenizer(config, weights)
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error
    except WeightsError as error:
        raise BundleError(f"{path / WEIGHTS_FILE}: {error}") from error
    tokenizer.encoder.to(dtype)
    tokenizer.decoder.to(dtype)
    tokenizer.to(device).eval().requires_grad_(False)
    return Bundle(path.resolve().name, record["hash"], config, record["licence"], tokenizer)
