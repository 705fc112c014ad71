"""Lanczos resampling along one axis as whole numbers: what Pillow computes, for those who compute it elsewhere.

Output i is clip((2^21 + sum over k of weight[i, k] pixel[first[i] + k]) >> 22) in int32, along rows first, then along
columns of the rounded result.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOBES = 3.0
WEIGHT_BITS = 22


class Taps(NamedTuple):
    """The sources of each output along one axis.

    Args:
        first: int32 (n), the first source of each output.
        weights: int32 (n, K), in units of 2^-22; 0 beyond the last source.
    """

    first: NDArray[np.int32]
    weights: NDArray[np.int32]


@lru_cache(maxsize=4096)
def lanczos_taps(size: int, start: float, end: float, count: int) -> Taps:
    """Return the taps that resample a part of an axis.

    Args:
        size: sources along the axis.
        start, end: the part, in sources; Pillow keeps them as float32.
        count: outputs.
    """
    begin, stop = np.float32(start), np.float32(end)
    scale = float(stop - begin) / count
    reach = max(scale, 1.0)
    support = LOBES * reach
    centers = float(begin) + (np.arange(count) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    beyond = np.minimum((centers + support + 0.5).astype(np.int64), size)
    taps = np.arange(2 * math.ceil(support) + 1)
    distances = (taps + first[:, None] - centers[:, None] + 0.5) * (1.0 / reach)
    weights = np.where(np.abs(distances) <= LOBES, np.sinc(distances) * np.sinc(distances / LOBES), 0.0)
    weights = np.where(taps < (beyond - first)[:, None], weights, 0.0)
    # One after the other, as in C: another order of sums could round otherwise.
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    whole = np.trunc(weights * (1 << WEIGHT_BITS) + np.where(weights < 0, -0.5, 0.5))
    return Taps(first.astype(np.int32), whole.astype(np.int32))
