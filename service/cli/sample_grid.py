"""One picture of all samples: pictures in a square, clips as rows of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from media.spread import spread

MAX_FRAMES = 9  # of a clip in its row
GAP = 2
WHITE = 255


def sample_grid(samples: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the picture, uint8 RGB (1, H, W, 3).

    Args:
        samples: pixels uint8 RGB (T, H, W, 3), all of one size.
    """
    if len(samples[0]) == 1:
        tiles, columns = [sample[0] for sample in samples], math.ceil(math.sqrt(len(samples)))
    else:
        chosen = spread(len(samples[0]), MAX_FRAMES)
        columns = len(chosen)
        tiles = [frame for sample in samples for frame in sample[chosen]]
    height, width, _ = tiles[0].shape
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), WHITE, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet[None]
