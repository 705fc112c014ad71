"""Bundles: folders with a typed config, safetensors and a model card. One writer, one loader, never pickle."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from model.tokenizer.config import ConfigError, TokenizerConfig
from model.tokenizer.tokenizer import OmniTokenizer
from model.tokenizer.weights import WeightsError, build_tokenizer

Kind = Literal["tokenizer", "generator"]
FORMATS: dict[Kind, str] = {"tokenizer": "omnitok-tokenizer/1", "generator": "omnitok-generator/1"}
HASH = re.compile("[0-9a-f]{64}")
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


class BundleError(ValueError):
    """A folder that is not a sound bundle, in one sentence."""


@dataclass(frozen=True)
class BundleConfig:
    """The config of a bundle of any kind, `config.json` on disk.

    Args:
        kind: "tokenizer", or "generator" for a network over the codes of a tokenizer.
        network: the network's config as JSON-ready data.
        weights_sha256: hash of the weights, 64 hex digits.
        licence: licence of the weights, or None if not stated.
        tokenizer_hash: content hash of the tokenizer bundle whose codes a generator makes; None for a tokenizer.

    Raises:
        BundleError: a value is out of its range.
    """

    kind: Kind
    network: dict[str, Any]
    weights_sha256: str
    licence: str | None = None
    tokenizer_hash: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise BundleError(f"A bundle is a {' or a '.join(get_args(Kind))}, not {self.kind!r}.")
        if self.licence is not None and not isinstance(self.licence, str):
            raise BundleError(f"The licence must be a text or null, not {self.licence!r}.")
        if not _is_hash(self.weights_sha256):
            raise BundleError(f"weights_sha256 must be 64 hex digits, not {self.weights_sha256!r}.")
        if self.kind == "generator" and not _is_hash(self.tokenizer_hash):
            raise BundleError(f"A generator names its tokenizer by 64 hex digits, not {self.tokenizer_hash!r}.")
        if self.kind == "tokenizer" and self.tokenizer_hash is not None:
            raise BundleError(f"A tokenizer names no other tokenizer, and this one names {self.tokenizer_hash!r}.")

    @property
    def hash(self) -> str:
        """Return the content hash of config and weights, 64 hex digits."""
        return _digest(json.dumps(self._body(), sort_keys=True, separators=(",", ":")).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the record that `config.json` holds."""
        return self._body() | {"hash": self.hash}

    @classmethod
    def from_dict(cls, record: object) -> BundleConfig:
        """Return the config in a record.

        Raises:
            BundleError: another format, unknown or missing keys, or a record that its hash does not fit.
        """
        if not isinstance(record, dict) or "format" not in record:
            raise BundleError("A bundle's config is a map that names its format.")
        kinds = [kind for kind, name in FORMATS.items() if name == record["format"]]
        if not kinds:
            raise BundleError(f"The format is {record['format']!r}; this version reads {', '.join(FORMATS.values())}.")
        kind = kinds[0]
        keys = {"format", "licence", kind, "weights_sha256", "hash"}
        keys |= {"tokenizer_hash"} if kind == "generator" else set()
        if set(record) != keys:
            raise BundleError(f"The config of a {kind} must hold exactly the keys {sorted(keys)}.")
        config = cls(kind, record[kind], record["weights_sha256"], record["licence"], record.get("tokenizer_hash"))
        if record["hash"] != config.hash:
            raise BundleError("The config was changed after it was written: its hash does not fit.")
        return config

    def _body(self) -> dict[str, Any]:
        body = {
            "format": FORMATS[self.kind],
            "licence": self.licence,
            self.kind: self.network,
            "weights_sha256": self.weights_sha256,
        }
        return body | ({"tokenizer_hash": self.tokenizer_hash} if self.kind == "generator" else {})


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


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


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
        card: the model card (data, licence, recipe, metrics), Markdown.
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
    config = BundleConfig("tokenizer", tokenizer.config.to_dict(), _digest(weights), licence)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh = Path(scratch) / "bundle"
        fresh.mkdir()
        (fresh / WEIGHTS_FILE).write_bytes(weights)
        (fresh / CARD_FILE).write_text(card, encoding="utf-8")
        (fresh / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        old = Path(scratch) / "old"
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    return config.hash


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
        read_config(path)


def read_config(path: Path) -> BundleConfig:
    """Return the config of a bundle of any kind, whose weights are not read.

    Raises:
        BundleError: the folder holds no sound config.
    """
    if not path.is_dir():
        raise BundleError(f"{path} is not a bundle: there is no such folder")
    if not (path / CONFIG_FILE).is_file():
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}")
    try:
        record = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path / CONFIG_FILE} is not JSON: {error}") from error
    try:
        return BundleConfig.from_dict(record)
    except BundleError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error


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
    try:
        config = TokenizerConfig.from_dict(record.network)
        tokenizer = build_tokenizer(config, weights)
    except ConfigError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error
    except WeightsError as error:
        raise BundleError(f"{path / WEIGHTS_FILE}: {error}") from error
    tokenizer.encoder.to(dtype)
    tokenizer.decoder.to(dtype)
    tokenizer.to(device).eval().requires_grad_(False)
    return Bundle(path.resolve().name, record.hash, config, record.licence, tokenizer)
