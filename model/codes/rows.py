"""The rows of a shard in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Rows:
    """Rows of one shard, in the order of their items; a row is one view of an item.

    Args:
        codes: of each row: tokens, uint16 or int32 (t, h, w), or float16 latents (t, h, w, c).
        items: number of its item in the source.
        keys: name of its item in the source.
        labels: class of each; -1 where it has none.
        views: number of the crop.
        flips: it is a mirror image.
        hashes: SHA-256 of the item's bytes, hexadecimal.
        preprocess: steps from the file's frame to the encoded one, as `media.types.Preprocess` names them.
    """

    codes: list[NDArray[Any]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    views: list[int] = field(default_factory=list)
    flips: list[bool] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    preprocess: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def stacked(self) -> NDArray[Any]:
        """Return the codes of rows of one grid as one array.

        Raises:
            ValueError: their grids differ.
        """
        return np.stack(self.codes)

    def append(self, *row: Any) -> None:
        """Append a row, whose values come in the order of the columns."""
        for values, value in zip(vars(self).values(), row, strict=True):
            values.append(value)

    def without(self, items: set[int]) -> Rows:
        """Return the rows of other items."""
        kept = [row for row, item in enumerate(self.items) if item not in items]
        return Rows(*([values[row] for row in kept] for values in vars(self).values()))

    def extend(self, others: Sequence[Rows]) -> Rows:
        """Append the rows of others, and return these rows."""
        for other in others:
            for name, values in vars(self).items():
                values += getattr(other, name)
        return self


def moments(rows: Rows) -> NDArray[np.float64]:
    """Return count, sum and sum of squares of each channel of latents: (3, c)."""
    channels = rows.codes[0].shape[-1]
    sums = np.zeros((3, channels))
    for codes in rows.codes:
        flat = codes.reshape(-1, channels).astype(np.float64)
        sums += np.stack([np.full(channels, len(flat)), flat.sum(0), np.square(flat).sum(0)])
    return sums
