"""Datasets of evaluation: sets of pixels, or a user's own folder of images and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.data import open_set
from training.data.files import Source, find
from training.data.shards import INFO_FILE, PixelSet
from training.devices import cores
from training.errors import TrainingError

HELD_OUT = {
    "photographs, 128x128": "held-out/photographs-128",
    "photographs, 256x256": "held-out/photographs-256",
    "camera clips, 17x128x128": "held-out/camera-128",
    "unseen game levels, 17x128x128": "held-out/procgen-128",
}
FURTHER = {"unseen maps, 17x128x128": "held-out/vizdoom-128"}  # looked at where they have been built
PIXELS_AT_ONCE = 1 << 21


class Items(Protocol):
    """Items of one size.

    Args:
        title: names them in tables.
        name: names their files.
        frames, side: of an item in pixels.
        broken: what could not be read so far, a sentence each.
    """

    title: str
    name: str
    frames: int
    side: int
    broken: list[str]

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """Yield items as uint8 (N, T, side, side, 3); those that cannot be read are left out and listed in `broken`."""


class SetItems:
    """Items of a set of pixels.

    Args:
        title: names it in tables.
        pixels: the set.
        limit: at most so many items, evenly spread; None for all.
    """

    def __init__(self, title: str, pixels: PixelSet, limit: int | None) -> None:
        self.title, self.name = title, pixels.info.name
        self.frames, self.side = pixels.info.frames, pixels.info.height
        self.broken: list[str] = []
        self._pixels, self._chosen = pixels, _spread(len(pixels), limit)

    def __len__(self) -> int:
        return len(self._chosen)

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        ends = np.cumsum([len(shard) for shard in self._pixels.shards])
        for part in _parts(self._chosen, self.frames, self.side):
            items = []
            for index in part:
                shard = int(np.searchsorted(ends, index, side="right"))
                items.append(self._pixels.shards[shard][index - ends[shard]].numpy())  # counted from the shard's end
            yield np.stack(items)


class FileItems:
    """Images, or the first frames of videos, of a folder; cut to centre squares that span the shorter side.

    Args:
        files: of one kind.
        side: pixels of the squares.
        frames: of a clip.
        limit: at most so many items, evenly spread; None for all.
    """

    def __init__(self, files: Source, side: int, frames: int, limit: int | None) -> None:
        images = files.kind == "images"
        self.frames, self.side, self.name = 1 if images else frames, side, str(files.kind)
        self.title = f"images, {side}x{side}" if images else f"clips, {frames}x{side}x{side}"
        self.broken: list[str] = []
        self._files, self._chosen = files, _spread(len(files), limit)

    def __len__(self) -> int:
        return len(self._chosen)

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(min(8, cores())) as pool:
            for part in _parts(self._chosen, self.frames, self.side):
                items = [item for item in pool.map(self._read, part) if item is not None]
                if items:
                    yield np.stack(items)

    def _read(self, index: int) -> NDArray[np.uint8] | None:
        place = self._files.place(index)
        try:
            return self._files.read(index, self.side, self.frames).pixels
        except Exception as error:  # decoders raise many kinds for damaged files
            self.broken.append(f"{place}: {error}")
            return None


def items_of(data: Path, side: int, frames: int, limit: int | None) -> list[Items]:
    """List the datasets of a folder.

    Args:
        data: a data folder with `held-out` sets, one set, or any folder of images and videos.
        side: pixels of the squares that files are cut to; sets have their own size.
        frames: of the clips that videos are cut to.
        limit: at most so many items of each kind or set, evenly spread; None for all.

    Raises:
        TrainingError: there is nothing, a held-out set is missing or damaged, or a number is too small.
    """
    if side < 16 or frames < 1 or (limit is not None and limit < 1):
        raise TrainingError(
            f"squares have 16 pixels or more, clips a frame and sets an item: not side {side}, frames {frames}, "
            f"items {limit}"
        )
    if (data / INFO_FILE).is_file():
        opened = open_set(data)
        return [SetItems(opened.info.name, opened, limit)]
    if (data / "held-out").is_dir():
        further = {title: name for title, name in FURTHER.items() if (data / name).is_dir()}
        return [SetItems(title, open_set(data / name), limit) for title, name in (HELD_OUT | further).items()]
    found = find(data)
    kinds: list[Items] = [
        FileItems(files, side, frames, limit) for files in (found.images, found.clips) if files is not None
    ]
    if not kinds:
        raise TrainingError(f"{data} holds no images, no videos and no data set")
    return kinds


def _spread(count: int, limit: int | None) -> list[int]:
    """Return the indices of at most `limit` of so many items, evenly spread."""
    if limit is None or limit >= count:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, limit).round()]


def _parts(chosen: Sequence[int], frames: int, side: int) -> Iterator[Sequence[int]]:
    size = max(1, PIXELS_AT_ONCE // (frames * side * side))
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]
