"""The half-split figure: what a metric says of two random halves of one set, which differ by chance alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SPLITS = 4
LEAST_ITEMS = 4  # two in each half, as a covariance needs
Indices = NDArray[np.int64]


def half_split(count: int, distance: Callable[[Indices, Indices], float], seed: int) -> float | None:
    """Mean absolute distance between halves of a set, over a few random splits.

    For a distance between distributions this is the floor under which a figure says nothing: half as many items make
    it higher than for the whole set, so it errs on the safe side. For a distance between paired pictures it is the
    other end of the scale, pictures that have nothing to do with each other.

    Args:
        count: items of the set; a clip is one, for its frames resemble each other.
        distance: from the indices of two halves of equal size.
        seed: of the splits.

    Returns:
        None for a set of fewer than four items.
    """
    if count < LEAST_ITEMS:
        return None
    random = np.random.default_rng(seed)
    values = []
    for _ in range(SPLITS):
        order = random.permutation(count)
        values.append(abs(distance(order[: count // 2], order[count // 2 : count // 2 * 2])))
    return float(np.mean(values))
