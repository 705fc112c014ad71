"""Real items of a generator's classes, from a labelled folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from media.kinds import KINDS, Kind
from media.spread import spread
from training.errors import TrainingError, one_line
from training.generator.code_set import ExtractionOptions
from training.generator.items import Items, find_items

ITEMS_AT_ONCE = 16


@dataclass(frozen=True)
class LabelledItems:
    """Items of one kind whose classes the generator has.

    Args:
        options: of their pixels.
        places: source, index in it, and the generator's class of each item.
        broken: items that could not be read so far, a sentence each.
    """

    options: ExtractionOptions
    places: tuple[tuple[Items, int, int], ...]
    broken: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> list[int]:
        """Return the generator's class of each item."""
        return [label for _, _, label in self.places]

    def spread(self, count: int | None) -> LabelledItems:
        """Return at most so many items, evenly spread; all for None."""
        if count is None or count >= len(self):
            return self
        return replace(self, places=tuple(self.places[place] for place in spread(len(self), count)), broken=[])

    def readable(self, places: Sequence[int]) -> LabelledItems:
        """Return the items at some places, which are those that could be read.

        Raises:
            TrainingError: there are none.
        """
        if not places:
            raise TrainingError(f"None of {len(self)} items could be read; the first is {self.broken[0]}.")
        return replace(self, places=tuple(self.places[place] for place in places))

    def read(self, start: int, stop: int) -> dict[int, NDArray[np.uint8]]:
        """Return some items by their places, each uint8 (T, side, side, 3), without those that cannot be read."""
        found = {}
        for place, (source, index, _) in enumerate(self.places[start:stop], start):
            try:
                found[place] = source.read(index, self.options)[0]
            except Exception as error:  # decoders raise many kinds for damaged files
                self.broken.append(f"{source.place(index)}: {one_line(error)}")
        return found

    def batches(self) -> Iterator[dict[int, NDArray[np.uint8]]]:
        """Yield all items that can be read, a few at a time."""
        for start in range(0, len(self), ITEMS_AT_ONCE):
            if found := self.read(start, start + ITEMS_AT_ONCE):
                yield found


def find_labelled(data: Path, classes: Sequence[str], options: ExtractionOptions) -> dict[Kind, LabelledItems]:
    """Return the items of a folder by kind; those of other classes are left out.

    Args:
        data: as for `find_items`; where it has no classes, all items are of the generator's first one.
        classes: names of the generator's.
        options: of the pixels.

    Raises:
        TrainingError: the folder holds no data.
    """
    found: dict[Kind, LabelledItems] = {}
    sources, _ = find_items(data, options)
    for kind in KINDS:
        places: list[tuple[Items, int, int]] = []
        for source in sources:
            if source.kind != kind:
                continue
            known = {index: classes.index(name) for index, name in enumerate(source.classes) if name in classes}
            labels = source.labels if source.classes else [0] * len(source)
            known = known if source.classes else {0: 0}
            places += [(source, index, known[label]) for index, label in enumerate(labels) if label in known]
        if places:
            found[kind] = LabelledItems(options, tuple(places))
    return found
