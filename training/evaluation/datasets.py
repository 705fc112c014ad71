"""Datasets of evaluation: sets of pixels, or a user's own folder of images and videos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from media.spread import spread
from training.data.shards import INFO_FILE, PixelSet, open_set
from training.devices import cores
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.data.files import Source

HELD_OUT = {
    "photographs, 128x128": "held-out/photographs-128",
    "photographs, 256x256": "held-out/photographs-256",
    "camera clips, 17x128x128": "held-out/camera-128",
    "unseen game levels, 17x128x128": "held-out/procgen-128",
}
OPTIONAL = {"unseen maps, 17x128x128": "held-out/vizdoom-128"}  # where they have been built
PIXELS_AT_ONCE = 1 << 21


class Dataset(ABC):
    """Items of one size.

    Args:
        title: names the set in tables.
        name: names its files.
        frames, side: of an item in pixels.
        count: of its items.
        limit: at most so many items are used, evenly spread; None for all.

    Attributes:
        broken: items that could not be read so far, a sentence each.
    """

    def __init__(self, title: str, name: str, frames: int, side: int, count: int, limit: int | None) -> None:
        self.title, self.name, self.frames, self.side = title, name, frames, side
        self.broken: list[str] = []
        self.chosen = spread(count, count if limit is None else limit)

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Yield items as uint8 (N, T, side, side, 3); those that cannot be read are left out and listed in `broken`."""
        size = max(1, PIXELS_AT_ONCE // (self.frames * self.side**2))
        with ThreadPoolExecutor(min(8, cores())) as pool:
            for start in range(0, len(self), size):
                items = [item for item in pool.map(self.read, self.chosen[start : start + size]) if item is not None]
                if items:
                    yield np.stack(items)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8] | None:
        """Return one item, uint8 (T, side, side, 3), or None where it is broken."""


class PixelDataset(Dataset):
    """Items of a set of pixels, with a title for tables."""

    def __init__(self, title: str, pixels: PixelSet, limit: int | None) -> None:
        info = pixels.info
        super().__init__(title, info.name, info.frames, info.height, len(pixels), limit)
        self._pixels = pixels

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return one item."""
        return self._pixels.item(index)


class FileDataset(Dataset):
    """Images, or the first frames of videos, of a folder; cut to centre squares that span the shorter side."""

    def __init__(self, files: Source, side: int, frames: int, limit: int | None) -> None:
        size = f"{side}x{side}" if files.kind == "images" else f"{frames}x{side}x{side}"
        frames = 1 if files.kind == "images" else frames
        super().__init__(f"{files.kind}, {size}", files.kind, frames, side, len(files), limit)
        self._files = files

    def read(self, index: int) -> NDArray[np.uint8] | None:
        """Return one item, or None for a file that cannot be read."""
        try:
            return self._files.read(index, self.side, self.frames).pixels
        except Exception as error:  # decoders raise many kinds for damaged files
            self.broken.append(f"{self._files.place(index)}: {error}")
            return None


def open_datasets(data: Path, side: int, frames: int, limit: int | None) -> list[Dataset]:
    """Open the datasets of a folder.

    Args:
        data: a folder with the held-out sets of `omnitok data build demo`, one set, or any folder of images and videos.
        side: pixels of the squares that files are cut to; sets have their own size.
        frames: of the clips that videos are cut to.
        limit: at most so many items of each kind or set, evenly spread; None for all.

    Raises:
        TrainingError: there is nothing, one of several sets must be named, or a held-out set is missing or damaged.
    """
    if (data / INFO_FILE).is_file():
        opened = open_set(data)
        return [PixelDataset(opened.info.name, opened, limit)]
    if any((data / name).is_dir() for name in HELD_OUT.values()):
        optional = {title: name for title, name in OPTIONAL.items() if (data / name).is_dir()}
        return [PixelDataset(title, open_set(data / name), limit) for title, name in (HELD_OUT | optional).items()]
    from training.data.files import find_files  # sets of pixels need no decoder of media

    found = find_files(data)
    datasets: list[Dataset] = [
        FileDataset(files, side, frames, limit) for files in (found.images, found.clips) if files is not None
    ]
    if not datasets:
        if sets := sorted(str(path.parent) for path in data.rglob(INFO_FILE)):
            raise TrainingError(f"{data} is a folder of data sets. Name one of them: {', '.join(sets)}.")
        raise TrainingError(f"{data} holds no images, no videos and no data set.")
    return datasets
