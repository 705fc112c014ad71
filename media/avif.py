"""The part of an AVIF picture that is shown: some encoders fill pictures up to sizes that they can take."""

from __future__ import annotations

import re
import struct
from fractions import Fraction

from media.orientation import Crop

_CLEAN_APERTURE = re.compile(rb"\0\0\0\x28clap(.{32})", re.S)


def clean_aperture(head: bytes, height: int, width: int) -> Crop:
    """Return the edges of a stored (height, width) picture that are not shown.

    Args:
        head: the first bytes of the file.
    """
    found = _CLEAN_APERTURE.search(head)
    if found is None:
        return Crop()
    numbers = struct.unpack(">8i", found[1])
    if 0 in numbers[1::2]:
        return Crop()
    columns, rows, right, down = map(Fraction, numbers[::2], numbers[1::2])
    left, top = (width - columns) / 2 + right, (height - rows) / 2 + down
    edges = left, top, width - left - columns, height - top - rows
    # Decoders ignore an aperture that is not of whole pixels inside of the picture.
    is_sound = all(edge >= 0 and edge.denominator == 1 for edge in edges)
    return Crop(*map(int, edges)) if is_sound else Crop()
