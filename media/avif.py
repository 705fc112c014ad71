"""The part of an AVIF picture that is shown: some encoders fill pictures up to sizes that they can take."""

from __future__ import annotations

import re
import struct

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
    columns, rows, right, down = (number / unit for number, unit in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = round((width - columns) / 2 + right), round((height - rows) / 2 + down)
    crop = Crop(left, top, width - left - round(columns), height - top - round(rows))
    return crop if min(crop) >= 0 else Crop()
