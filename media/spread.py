"""Places that are evenly spread over a sequence."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices below `count`, evenly spread: the first and, of two or more, the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
