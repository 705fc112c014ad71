"""Labelled pictures and clips of a folder of data, as squares of one size: from sets of pixels or from files."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from media.kinds import KINDS, Kind
from media.labels import number_classes
from media.types import SampleWindow
from training.data.loaders.item_rng import item_uniforms
from training.data.shards import INFO_FILE, PixelSet, open_set
from training.errors import TrainingError
from training.generator.code_set import ExtractionOptions

if TYPE_CHECKING:
    from training.data.files import Source

PLACE, LEFT, TIME, FACTOR = range(4)  # places of a view's random numbers


class FileItems:
    """A user's own pictures or videos; the squares span the shorter side.

    Args:
        source: of one kind.
        data: folder or tar file that they were found in.

    Attributes:
        kind: images or clips.
        classes: names that the labels count from 0.
        labels: class of each item; empty where there are none.
        sentence: says what the data is.
    """

    def __init__(self, source: Source, data: Path) -> None:
        self.kind, self.classes, self.labels = source.kind, source.classes, source.labels.tolist()
        self.sentence = f"{len(source):,} {source.kind} of the folder {source.root.resolve().name}"
        self._source = source
        self._folder = source.root.relative_to(data) if source.root.is_relative_to(data) else Path()

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int, options: ExtractionOptions) -> list[NDArray[np.uint8]]:
        """Return the views of an item, each uint8 (T, side, side, 3).

        Raises:
            Exception: many kinds, for a file that cannot be read.
        """
        views = []
        for number, uniforms in enumerate(_uniforms(self.kind, index, options)):
            place, start = (float(uniforms[PLACE]), float(uniforms[TIME])) if number else (0.5, 0.0)
            window = SampleWindow(place, start, options.fps)
            views.append(self._source.read(index, options.side, options.frames, window).pixels)
        return views

    def digest(self, index: int) -> bytes:
        """Return the SHA-256 hash of an item's bytes; none of one that cannot be read."""
        try:
            with io.BufferedReader(self._source.open(index)) as file:
                return hashlib.file_digest(file, "sha256").digest()
        except (OSError, TrainingError):
            return b""

    def place(self, index: int) -> str:
        """Return the place of an item, for people."""
        return self._source.place(index)

    def key(self, index: int) -> str:
        """Return the path of an item below the data, or its name inside a tar, as `omnitok tokenize` has it."""
        name = self._source.names[index]
        return str(self._folder / name) if self._source.shard[index] < 0 else name


class SetItems:
    """A set of pixels; squares of a larger one are cut, and reduced by whole multiples of the side.

    Attributes:
        kind, classes, labels, sentence: as of `FileItems`.

    Raises:
        TrainingError: the set is too small, or its clips are too short.
    """

    def __init__(self, pixels: PixelSet, options: ExtractionOptions) -> None:
        info = pixels.info
        self.kind: Kind = "images" if info.frames == 1 else "clips"
        self.classes, self.labels = info.classes, pixels.labels
        self._name, self.sentence = info.name, f"{info.name}, {len(pixels):,} items: {info.source}"
        self._pixels = pixels
        self._frames = 1 if info.frames == 1 else options.frames
        if min(info.height, info.width) < options.side or info.frames < self._frames:
            raise TrainingError(
                f"The set {info.name} has {info.frames} x {info.height} x {info.width} pixels, too few for "
                f"{self._frames} x {options.side} x {options.side}."
            )

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int, options: ExtractionOptions) -> list[NDArray[np.uint8]]:
        """Return the views of an item, each uint8 (T, side, side, 3); one where the set is too small for others."""
        item = self._pixels.item(index)
        free = np.array(item.shape[:3]) - [self._frames, options.side, options.side]
        views = []
        for number, uniforms in enumerate(_uniforms(self.kind, index, options) if free.any() else [np.zeros(4)]):
            farthest = min(item.shape[1:3]) // options.side
            factor = 1 + int(uniforms[FACTOR] * farthest) if number else farthest
            side = options.side * factor
            position = uniforms[[TIME, PLACE, LEFT]] if number else np.array([0, 0.5, 0.5])
            start, top, left = (position * (np.array(item.shape[:3]) - [self._frames, side, side] + 1)).astype(int)
            square = item[start : start + self._frames, top : top + side, left : left + side]
            if factor == 1:
                views.append(np.ascontiguousarray(square))
                continue
            blocks = square.reshape(self._frames, options.side, factor, options.side, factor, 3)
            views.append(((blocks.sum((2, 4), dtype=np.int32) + factor**2 // 2) // factor**2).astype(np.uint8))
        return views

    def digest(self, index: int) -> bytes:
        """Return the SHA-256 hash of an item's pixels."""
        return hashlib.sha256(np.ascontiguousarray(self._pixels.item(index)).data).digest()

    def place(self, index: int) -> str:
        """Return the place of an item, for people."""
        return f"item {index} of {self.sentence}"

    def key(self, index: int) -> str:
        """Return the name of the set and the number of an item in it."""
        return f"{self._name}/{index}"


Items = FileItems | SetItems


def find_items(data: Path, options: ExtractionOptions) -> tuple[list[Items], tuple[str, ...]]:
    """Return the items of a folder with labels that count over one list of classes.

    Sets of pixels below `train/` come before files, as in training of tokenizers. Where some sources have classes,
    those without are left out.

    Args:
        data: as for `open_loader`.
        options: the pixels that are wanted.

    Returns:
        The sources, and the sorted names of all classes.

    Raises:
        TrainingError: the folder holds no data, or a set is too small.
    """
    folders = sorted(path.parent for path in (data / "train").glob(f"*/{INFO_FILE}"))
    found: list[Items]
    if folders:
        sets = [open_set(folder) for folder in folders]
        labelled = any(one.info.classes for one in sets)
        found = [SetItems(one, options) for one in sets if bool(one.info.classes) == labelled]
    else:
        from training.data.files import find_sources  # sets of pixels need no decoder of media

        found = [FileItems(source, data) for source in find_sources(data) if source is not None]
        labelled = any(items.classes for items in found)
        found = [items for items in found if bool(items.classes) == labelled]
    classes = number_classes([name for items in found for name in items.classes]).classes
    for items in found:
        number = [classes.index(name) for name in items.classes]
        items.labels = [number[label] for label in items.labels]
        items.classes = classes
    return sorted(found, key=lambda items: KINDS.index(items.kind)), classes


def _uniforms(kind: Kind, index: int, options: ExtractionOptions) -> NDArray[np.float64]:
    return item_uniforms(options.seed, kind, range(index * options.views, (index + 1) * options.views))
