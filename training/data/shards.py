"""Pixel sets on disk: a folder of `.npy` shards, uint8 (N, T, H, W, 3), with a `set.json` that describes them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.atomic_write import replace_file, replacing
from training.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

INFO_FILE = "set.json"


@dataclass(frozen=True)
class SetInfo:
    """The description of a set.

    Args:
        name: the set's name, which is its folder's.
        frames, height, width: size of every item in pixels; an image is a clip of one frame.
        classes: names that the labels count from 0, or empty where items have no class.
        source: where the pixels come from, one sentence.
    """

    name: str
    frames: int
    height: int
    width: int
    classes: tuple[str, ...]
    source: str


def write_info(folder: Path, info: SetInfo) -> None:
    """Describe the set in `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / INFO_FILE, json.dumps(asdict(info), indent=2).encode() + b"\n")


def shard_path(folder: Path, index: int) -> Path:
    """Return the file of shard `index`."""
    return folder / f"{index:05d}.npy"


def write_shard(folder: Path, index: int, pixels: NDArray[np.uint8], labels: Sequence[int] = ()) -> None:
    """Write one shard: the labels first, so that pixels that exist are complete.

    Args:
        folder: the set's folder.
        index: number of the shard.
        pixels: uint8 (N, T, H, W, 3).
        labels: N class indices, or none.
    """
    path = shard_path(folder, index)
    if labels:
        replace_file(path.with_suffix(".labels.json"), json.dumps(list(labels)).encode())
    with replacing(path) as fresh:
        np.save(fresh, pixels)


@dataclass(frozen=True)
class PixelSet:
    """An opened set; its pixels stay on disk until they are read.

    Args:
        info: what the set holds.
        shards: uint8 tensors (N_i, T, H, W, 3), mapped.
        labels: class index of every item, empty where there are none.
    """

    info: SetInfo
    shards: tuple[Tensor, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> NDArray[np.uint8]:
        """Return one item, uint8 (T, H, W, 3), mapped."""
        shard = bisect_right(self._ends, index)
        return self.shards[shard][index - self._ends[shard]].numpy()  # counted from the shard's end

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.shards)))

    def pixels(self) -> Tensor:
        """Return all items in memory: uint8 (N, T, H, W, 3)."""
        import torch

        return torch.cat(self.shards)


def open_set(folder: Path) -> PixelSet:
    """Open a set; pixels are mapped, not read.

    Args:
        folder: holds `set.json` and shards.

    Raises:
        TrainingError: no set there, no shards, or a damaged file, which is named.
    """
    if not (folder / INFO_FILE).is_file():
        raise TrainingError(
            f"{folder} is not a data set: it has no {INFO_FILE}; `omnitok data build` makes one, or ends it."
        )
    try:
        values = json.loads((folder / INFO_FILE).read_text())
        if unknown := sorted(set(values) ^ {field.name for field in fields(SetInfo)}):
            raise TrainingError(f"{folder / INFO_FILE} has unknown or missing keys {unknown}.")
        info = SetInfo(**{**values, "classes": tuple(values["classes"])})
    except (json.JSONDecodeError, TypeError) as error:
        raise TrainingError(f"{folder / INFO_FILE} does not describe a data set: {error}") from error
    paths = sorted(folder.glob("[0-9]*.npy"))
    if not paths:
        raise TrainingError(f"{folder} holds no shards; build the data again.")
    shards, labels = [], []
    for path in paths:
        shards.append(_open_shard(path, (info.frames, info.height, info.width, 3)))
        labels += _read_labels(path, len(shards[-1]), info)
    return PixelSet(info, tuple(shards), tuple(labels))


def _open_shard(path: Path, item: tuple[int, ...]) -> Tensor:
    import torch  # which those who write sets can do without

    try:
        pixels = np.load(path, mmap_mode="c", allow_pickle=False)  # copy on write: torch wants writable memory
    except (ValueError, OSError, EOFError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete it and build the data again.") from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != item or not len(pixels):
        raise TrainingError(f"{path} holds {pixels.dtype} {pixels.shape}, not uint8 (N, {', '.join(map(str, item))}).")
    return torch.from_numpy(pixels)


def _read_labels(path: Path, count: int, info: SetInfo) -> list[int]:
    if not info.classes:
        return []
    file = path.with_suffix(".labels.json")
    try:
        labels = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TrainingError(f"{file} is missing or damaged ({error}); delete {path.name} and build again.") from error
    if len(labels) != count or not all(0 <= label < len(info.classes) for label in labels):
        raise TrainingError(f"{file} does not hold {count} labels below {len(info.classes)}.")
    return labels
