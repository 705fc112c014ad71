"""Random numbers of items: those of item n follow from the seed, the kind and n alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.data.loaders.batch import Kind

NUMBERS_PER_ITEM = 16  # numbers that an item may use; a multiple of the 4 that Philox makes at a time
KIND_KEYS: dict[Kind, int] = {"images": 1, "clips": 2}
ITEMS, EPOCHS = 0, 1  # last word of the counter: what the numbers are for


def item_uniforms(seed: int, kind: Kind, items: range) -> NDArray[np.float64]:
    """Return numbers in [0, 1) of consecutive items: (len(items), 16).

    Args:
        seed: of the run.
        kind: of the items.
        items: their numbers, in steps of 1.
    """
    counter = [items.start * (NUMBERS_PER_ITEM // 4), 0, 0, ITEMS]
    return np.random.Generator(_philox(seed, kind, counter)).random((len(items), NUMBERS_PER_ITEM))


@lru_cache(maxsize=8)
def _permutation(seed: int, kind: Kind, size: int, epoch: int) -> NDArray[np.int64]:
    return np.random.Generator(_philox(seed, kind, [0, size, epoch, EPOCHS])).permutation(size)


def epoch_order(seed: int, kind: Kind, size: int, items: range) -> NDArray[np.int64]:
    """Return the source of each item, below `size`: every epoch of `size` items is a permutation of its own.

    Args:
        seed: of the run.
        kind: of the items.
        size: number of sources.
        items: their numbers, in steps of 1.
    """
    parts = []
    for epoch in range(items.start // size, -(-items.stop // size)):
        inside = slice(max(0, items.start - epoch * size), items.stop - epoch * size)
        parts.append(_permutation(seed, kind, size, epoch)[inside])
    return np.concatenate(parts)


def _philox(seed: int, kind: Kind, counter: list[int]) -> np.random.Philox:
    key = np.array([seed % 2**64, KIND_KEYS[kind]], np.uint64)
    return np.random.Philox(key=key, counter=np.array(counter, np.uint64))
