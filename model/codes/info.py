"""The description of an encoded data set: `codes.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from media.kinds import KINDS, Kind
from media.types import Fit
from model.atomic_write import replace_file
from model.geometry import Geometry, Grid

FORMAT = "omnitok-codes/2"
INFO_FILE = "codes.json"
MANIFEST_FOLDER = "manifest"

JpegDecoding = Literal["cpu", "gpu"]
Container = Literal["parquet", "tar", "npy"]
SUFFIXES: dict[Container, str] = {"parquet": ".parquet", "tar": ".tar", "npy": ""}


class CodesError(Exception):
    """An encoded data set that cannot be written or read; the sentence names the file and the remedy."""


@contextmanager
def refuse_damaged(shard: Path, format_error: type[Exception]) -> Iterator[None]:
    """Raise `CodesError` for what reading a damaged shard raises, an error of its format among it."""
    try:
        yield
    except (OSError, KeyError, ValueError, format_error) as error:
        raise CodesError(f"{shard} is damaged ({error}): delete it and tokenize again.") from error


@dataclass(frozen=True)
class EncodingOptions:
    """The pixels that are encoded.

    Args:
        height, width: of all items, pixels; None keeps the size of each.
        fit: of items into that size, as `media.types.MediaOptions` defines it.
        frames: of every clip, whose last frame is held where it has fewer; None encodes each as long as it is.
        flips: encode the mirror image of every view too.
        views: crops, and windows in time, of each item. The first one is the middle, from the start; the others are
            drawn at random from the seed.
        fps: frames per second of clips; as recorded if None.
        seed: of the views.
        jpeg: decoder of plain JPEGs: "gpu" for the JPEG engines of a GPU, which see less of the damage in a file.

    Raises:
        CodesError: a number is out of its range, or options contradict each other.
    """

    height: int | None = None
    width: int | None = None
    fit: Fit = "cover"
    frames: int | None = None
    flips: bool = False
    views: int = 1
    fps: float | None = None
    seed: int = 0
    jpeg: JpegDecoding = "cpu"

    def __post_init__(self) -> None:
        for name in ("height", "width", "frames", "views", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise CodesError(f"{name}={value} must be above 0, and finite.")
        if (self.height is None) != (self.width is None):
            raise CodesError(f"height={self.height} and width={self.width} come together: give both, or neither.")
        if self.fit not in get_args(Fit):
            raise CodesError(f"fit={self.fit!r} must be one of {', '.join(get_args(Fit))}.")
        if self.jpeg not in get_args(JpegDecoding):
            raise CodesError(f"jpeg={self.jpeg!r} must be one of {', '.join(get_args(JpegDecoding))}.")
        if self.jpeg == "gpu" and self.height is None:
            raise CodesError('jpeg="gpu" needs a size, which the GPU brings pictures to. Give --size.')
        if self.views > 1 and self.height is None:
            raise CodesError(f"views={self.views} needs a size, which the crops have. Give --size.")

    @property
    def repeats(self) -> int:
        """Return the rows of each item."""
        return self.views * (1 + self.flips)


@dataclass(frozen=True)
class CodesInfo:
    """The description of an encoded data set.

    Args:
        tokenizer, tokenizer_hash: name and content hash of the bundle that encoded.
        dtype: precision that it ran in.
        kind: "tokens" or "latents".
        size: codes of the codebook, or channels of the latents.
        patch, temporal_patch: pixels and frames behind a latent position.
        causal: the first latent frame of a clip is what its first picture alone is encoded to.
        options: the pixels that were encoded.
        container: form of the shards.
        shard_items: items of a shard of each kind.
        source: sentence that says what the data is.
        classes: names that labels count from 0; empty where items have no class.
        items: number of each kind, failed ones included.
        rows: encoded rows of each kind, mirror images and views included; None until all shards are written.
        mean, std: of each latent channel over all rows, likewise; None for tokens.
    """

    tokenizer: str
    tokenizer_hash: str
    dtype: str
    kind: Literal["tokens", "latents"]
    size: int
    patch: int
    temporal_patch: int
    causal: bool
    options: EncodingOptions
    container: Container
    shard_items: dict[Kind, int]
    source: str
    classes: tuple[str, ...]
    items: dict[Kind, int]
    rows: dict[Kind, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def grid(self, kind: Kind) -> Grid | None:
        """Return the latent grid of all items of a kind; None where they differ."""
        options = self.options
        frames = 1 if kind == "images" else options.frames
        if options.height is None or options.width is None or frames is None:
            return None
        return Geometry(self.patch, self.temporal_patch).grid((frames, options.height, options.width))

    def begun(self) -> CodesInfo:
        """Return the description as it was before any shard was written."""
        return replace(self, rows=None, mean=None, std=None)


def write_info(folder: Path, info: CodesInfo) -> None:
    """Describe the data set in `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / INFO_FILE, json.dumps({"format": FORMAT} | asdict(info), indent=2).encode() + b"\n")


def is_encoded(folder: Path) -> bool:
    """Return whether a folder holds an encoded data set of this format, complete or not."""
    try:
        record = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("format") == FORMAT


def read_info(folder: Path) -> CodesInfo:
    """Read the description of an encoded data set.

    Raises:
        CodesError: there is none, or it is damaged or of another format.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        raise CodesError(f"{folder} holds no codes: it has no {INFO_FILE}. `omnitok tokenize` makes one.")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = record.pop("format")
        if found != FORMAT:
            raise CodesError(
                f"{path} has the format {found!r}, not {FORMAT!r}: delete the folder or choose another, and encode."
            )
        if wrong := sorted(set(record) ^ {field.name for field in fields(CodesInfo)}):
            raise CodesError(f"{path} has unknown or missing keys {wrong}.")
        record |= {name: record[name] and tuple(record[name]) for name in ("mean", "std")}
        record |= {"classes": tuple(record["classes"]), "options": EncodingOptions(**record["options"])}
        info = CodesInfo(**record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CodesError(f"{path} does not describe codes: {error}.") from error
    if set(info.items) - set(KINDS) or info.container not in SUFFIXES:
        raise CodesError(f"{path} names items {sorted(info.items)} or a container {info.container!r} that are unknown.")
    return info


def shard_name(kind: Kind, index: int) -> str:
    """Return the name of shard `index` of a kind, without a suffix."""
    return f"{kind}-{index:05d}"
