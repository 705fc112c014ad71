"""Codes on disk: a folder of safetensors shards, and a `codes.json` with tokenizer, options and classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from media.kinds import KINDS, Kind
from model.atomic_write import replace_file, replacing
from model.geometry import Grid
from training.errors import TrainingError

FORMAT = "omnitok-codes/1"
INFO_FILE = "codes.json"


@dataclass(frozen=True)
class ExtractionOptions:
    """The pixels that are encoded.

    Args:
        side: pixels of the squares.
        frames: of a clip.
        flips: encode the mirror image of every item too.
        views: crops, and windows in time, of each item that is larger or longer; the first one is the middle, from
            the start, and the others are drawn at random.
        fps: frames per second of clips cut from videos; as recorded if None.
        seed: of the views.

    Raises:
        TrainingError: a number is out of its range.
    """

    side: int
    frames: int = 17
    flips: bool = True
    views: int = 1
    fps: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.side, self.frames, self.views) < 1 or (self.fps is not None and not 0 < self.fps < float("inf")):
            raise TrainingError(f"{self} is out of range: side, frames, views and fps are positive.")


@dataclass(frozen=True)
class CodesInfo:
    """The description of a folder of codes.

    Args:
        tokenizer, tokenizer_hash: name and content hash of the bundle that encoded.
        kind: "tokens" of a VQ tokenizer, or "latents", the means of a VAE.
        size: codes of the codebook, or channels of the latents.
        patch, temporal_patch: pixels and frames behind a latent position.
        causal: the first latent frame of a clip is what its first picture alone is encoded to.
        options: the pixels that were encoded.
        classes: names that labels count from 0; empty where items have no class.
        sources: sentences that say what the data is.
        rows: encoded items of each kind, mirror images and views included; known once all shards are written.
        mean, std: of each latent channel over all rows, likewise.
    """

    tokenizer: str
    tokenizer_hash: str
    kind: Literal["tokens", "latents"]
    size: int
    patch: int
    temporal_patch: int
    causal: bool
    options: ExtractionOptions
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    rows: dict[Kind, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def grid(self, kind: Kind) -> Grid:
        """Return the latent grid of the items of a kind."""
        side = -(-self.options.side // self.patch)
        return (1 if kind == "images" else 1 + -(-(self.options.frames - 1) // self.temporal_patch)), side, side

    def begun(self) -> CodesInfo:
        """Return the description as it was before any shard was written."""
        return replace(self, rows=None, mean=None, std=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record that `codes.json` holds."""
        return {"format": FORMAT} | asdict(self)


@dataclass(frozen=True)
class Codes:
    """The rows of one kind.

    Args:
        codes: integer tokens (N, t, h, w), or float16 latents (N, t, h, w, c).
        labels: int64 (N), class of each row; -1 where it has none.
        items: int64 (N), number of the source item of each row; its views and mirror images share it.
    """

    codes: Tensor
    labels: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def shard_path(folder: Path, kind: Kind, index: int) -> Path:
    """Return the file of shard `index` of a kind."""
    return folder / f"{kind}-{index:05d}.safetensors"


def write_shard(path: Path, codes: Codes, content: str) -> None:
    """Write one shard as a whole.

    Args:
        path: of the file.
        codes: its rows.
        content: hash of what they were made of.
    """
    with replacing(path) as fresh:
        save_file({name: value.contiguous() for name, value in vars(codes).items()}, fresh, {"content": content})


def write_info(folder: Path, info: CodesInfo) -> None:
    """Describe the codes in `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / INFO_FILE, json.dumps(info.to_dict(), indent=2).encode() + b"\n")


def read_info(folder: Path) -> CodesInfo:
    """Read the description of a folder of codes, whether all shards are written or not.

    Raises:
        TrainingError: there is none, or it is damaged or of another format.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        raise TrainingError(f"{folder} holds no codes: it has no {INFO_FILE}; `omnitok data codes` makes it.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record.pop("format")
        if found != FORMAT:
            raise TrainingError(f"{path} has the format {found!r}, not {FORMAT!r}.")
        if wrong := sorted(set(record) ^ {field.name for field in fields(CodesInfo)}):
            raise TrainingError(f"{path} has unknown or missing keys {wrong}.")
        record |= {name: tuple(record[name]) for name in ("classes", "sources")}
        record |= {name: record[name] and tuple(record[name]) for name in ("mean", "std")}
        return CodesInfo(**record | {"options": ExtractionOptions(**record["options"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{path} does not describe codes: {error}.") from error


@dataclass(frozen=True)
class CodeSet:
    """An opened folder of codes.

    Args:
        info: what it holds.
        kinds: rows of each kind that it has, on the CPU.
    """

    info: CodesInfo
    kinds: dict[Kind, Codes]


def open_codes(folder: Path) -> CodeSet:
    """Open a folder of codes whose extraction is complete.

    Raises:
        TrainingError: there are no codes, their extraction has not ended, or a shard is damaged.
    """
    info = read_info(folder)
    if info.rows is None:
        raise TrainingError(f"The extraction to {folder} has not ended: run `omnitok data codes` again, which resumes.")
    kinds = {kind: _read_kind(folder, kind, info) for kind in KINDS if info.rows.get(kind)}
    return CodeSet(info, kinds)


def relabelled(codes: CodeSet, classes: tuple[str, ...]) -> CodeSet:
    """Return the rows of known classes, with labels that count over these.

    Raises:
        TrainingError: no row is left.
    """
    if codes.info.classes == classes:
        return codes
    number = torch.tensor([classes.index(name) if name in classes else -1 for name in codes.info.classes] or [-1])
    kinds = {}
    for kind, rows in codes.kinds.items():
        labels = number[rows.labels]
        known = labels >= 0
        if known.any():
            kinds[kind] = Codes(rows.codes[known], labels[known], rows.items[known])
    if not kinds:
        raise TrainingError(
            f"The codes have the classes {', '.join(codes.info.classes) or 'none'}, and none of {', '.join(classes)}."
        )
    return CodeSet(replace(codes.info, classes=classes), kinds)


def _read_kind(folder: Path, kind: Kind, info: CodesInfo) -> Codes:
    assert info.rows is not None
    codes = join([read_shard(path) for path in sorted(folder.glob(f"{kind}-*.safetensors"))])
    if len(codes) != info.rows[kind] or codes.codes.shape[1:4] != info.grid(kind):
        raise TrainingError(
            f"{folder} holds {len(codes)} {kind} of grid {tuple(codes.codes.shape[1:4])}, and {INFO_FILE} says "
            f"{info.rows[kind]} of grid {info.grid(kind)}: delete the folder and extract again."
        )
    return codes


def read_content(path: Path) -> str | None:
    """Return the hash of what a shard was made of, None if it does not say.

    Raises:
        TrainingError: it is missing or damaged.
    """
    with _reading(path), safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("content")


def read_shard(path: Path) -> Codes:
    """Read one shard.

    Raises:
        TrainingError: it is missing or damaged.
    """
    with _reading(path):
        tensors = load_file(path)
        return Codes(tensors["codes"], tensors["labels"], tensors["items"])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, KeyError, OSError) as error:
        raise TrainingError(f"{path} is damaged ({error}): delete it and extract again.") from error


def join(parts: Sequence[Codes]) -> Codes:
    """Concatenate rows."""
    if not parts:
        return Codes(torch.empty(0, 0, 0, 0), torch.empty(0), torch.empty(0))
    return Codes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "labels", "items")))
