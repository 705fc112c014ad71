"""Files of a bundle: its typed config, its hashes, writing it whole and reading it back."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.atomic_write import replace_file

Kind = Literal["tokenizer", "generator"]
FORMATS: dict[Kind, str] = {"tokenizer": "omnitok-tokenizer/1", "generator": "omnitok-generator/1"}
_OF_GENERATORS = ("tokenizer_hash", "classes_sha256")  # keys that tokenizers lack
HASH = re.compile("[0-9a-f]{64}")
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, CLASSES_FILE = "config.json", "model.safetensors", "README.md", "classes.json"
FILES = {CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, CLASSES_FILE}


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
        classes_sha256: hash of a generator's names of classes; None where there are none.

    Raises:
        BundleError: a value is out of its range.
    """

    kind: Kind
    network: dict[str, Any]
    weights_sha256: str
    licence: str | None = None
    tokenizer_hash: str | None = None
    classes_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise BundleError(f"A bundle is a {' or a '.join(get_args(Kind))}, not {self.kind!r}.")
        if self.licence is not None and not isinstance(self.licence, str):
            raise BundleError(f"The licence must be a text or null, not {self.licence!r}.")
        if not _is_hash(self.weights_sha256):
            raise BundleError(f"weights_sha256 must be 64 hex digits, not {self.weights_sha256!r}.")
        if self.kind == "generator" and not _is_hash(self.tokenizer_hash):
            raise BundleError(f"A generator names its tokenizer by 64 hex digits, not {self.tokenizer_hash!r}.")
        if self.classes_sha256 is not None and (self.kind == "tokenizer" or not _is_hash(self.classes_sha256)):
            raise BundleError(f"A generator names its classes' file by 64 hex digits, not {self.classes_sha256!r}.")
        if self.kind == "tokenizer" and self.tokenizer_hash is not None:
            raise BundleError(f"A tokenizer names no other tokenizer, and this one names {self.tokenizer_hash!r}.")

    @property
    def hash(self) -> str:
        """Return the content hash of config and weights, 64 hex digits."""
        return digest(json.dumps(self._body(), sort_keys=True, separators=(",", ":")).encode())

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
        keys = {"format", "licence", kind, "weights_sha256", "hash", *(_OF_GENERATORS if kind == "generator" else ())}
        if set(record) != keys:
            raise BundleError(f"The config of a {kind} must hold exactly the keys {sorted(keys)}.")
        own = {key: record.get(key) for key in _OF_GENERATORS}
        config = cls(kind, record[kind], record["weights_sha256"], record["licence"], **own)
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
        return body | ({key: getattr(self, key) for key in _OF_GENERATORS} if self.kind == "generator" else {})


def digest(data: bytes) -> str:
    """Return the SHA-256 hash of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def write_bundle(path: Path, config: BundleConfig, files: Mapping[str, bytes]) -> str:
    """Write a bundle of any kind; a folder that is there is a whole one, old or new.

    Args:
        path: folder to write; an existing bundle there is replaced, anything else is refused.
        config: its config.
        files: the content of every other file by its name.

    Returns:
        The content hash.

    Raises:
        BundleError: `path` exists and is not a bundle.
    """
    check_replaceable(path, config.kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = json.dumps(config.to_dict(), indent=2) + "\n"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh = Path(scratch) / "bundle"
        fresh.mkdir()
        for name, data in {**files, CONFIG_FILE: record.encode()}.items():
            replace_file(fresh / name, data)
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


def check_replaceable(path: Path, kind: Kind) -> None:
    """Refuse to write over anything but a bundle of the same kind or an empty folder.

    Raises:
        BundleError: the path holds something else.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise BundleError(f"{path} exists and is not a folder: not replaced.")
    names = {entry.name for entry in path.iterdir()}
    if names - FILES:
        raise BundleError(f"{path} exists and is not a bundle, or holds more than one: not replaced.")
    if names and (found := read_config(path).kind) != kind:
        raise BundleError(f"{path} is a {found}, which a {kind} does not replace; name another folder.")


def read_config(path: Path) -> BundleConfig:
    """Return the config of a bundle of any kind, whose weights are not read.

    Raises:
        BundleError: the folder holds no sound config.
    """
    if not path.is_dir():
        raise BundleError(f"{path} is not a bundle: there is no such folder.")
    if not (path / CONFIG_FILE).is_file():
        raise BundleError(f"{path} is not a bundle: it has no {CONFIG_FILE}.")
    try:
        record = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path / CONFIG_FILE} is not JSON: {error}") from error
    try:
        return BundleConfig.from_dict(record)
    except BundleError as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error


def read_file(file: Path, expected: str) -> bytes:
    """Return the content of a bundle's file.

    Raises:
        BundleError: the file is missing, or its hash is another.
    """
    if not file.is_file():
        raise BundleError(f"{file.parent} is not a whole bundle: it has no {file.name}.")
    data = file.read_bytes()
    if digest(data) != expected:
        raise BundleError(f"{file} is damaged: its content is not what {CONFIG_FILE} was written for.")
    return data
