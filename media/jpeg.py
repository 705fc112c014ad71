"""JPEGs through libjpeg-turbo without Pillow, whose pixels it gives in four fifths of the time."""

from __future__ import annotations

import re
from contextlib import suppress
from struct import error as struct_error
from struct import unpack_from

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from media.errors import MediaError

_BASELINE, _EXTENDED, _PROGRESSIVE, _SCAN, _JFIF = 0xC0, 0xC1, 0xC2, 0xDA, 0xE0
# Tables, restart intervals and comments.
_IGNORED = frozenset({0xC4, 0xDB, 0xDD, 0xFE})
_JFIF_BYTES = 14
_FRAMES = (_BASELINE, _EXTENDED, _PROGRESSIVE)
_ALL_FRAMES, _LOSSLESS_LS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}, 0xF7
_DEEP = (12, 16)
_COEFFICIENTS = 64
_WHOLE_SCAN, _MAX_CHANNELS = (0, _COEFFICIENTS - 1, 0), 4
_MARKER = re.compile(rb"\xff[^\0\x01\xd0-\xd7\xff]")  # of a segment, which none in the data of a scan is


def plain_size(head: bytes) -> tuple[int, int] | None:
    """Return the (height, width) of a grey or RGB JPEG that says nothing else about how it is shown.

    Args:
        head: the first bytes of the file.

    Returns:
        None for a file with metadata, with colours of other kinds, or with anything unusual before its pixels.
    """
    size, at = None, 2
    try:
        while True:
            mark, marker, length = unpack_from(">BBH", head, at)
            if mark != 0xFF or length < 2:
                return None
            if marker == _SCAN:
                return size
            if marker in _FRAMES:
                bits, height, width, channels = unpack_from(">BHHB", head, at + 4)
                is_usual = bits == 8 and height * width > 0 and channels in (1, 3) and length == 8 + 3 * channels
                if size is not None or not is_usual:
                    return None
                size = (height, width)
            elif marker == _JFIF:
                if length < 2 + _JFIF_BYTES or not head.startswith(b"JFIF\0", at + 4):
                    return None
            elif marker not in _IGNORED:
                return None
            at += 2 + length
    except struct_error:
        return None


def check_jpeg(head: bytes) -> None:
    """Refuse a JPEG of a kind that Pillow takes for damaged.

    Args:
        head: the first bytes of the file.

    Raises:
        MediaError: "unsupported-container".
    """
    at = 2
    with suppress(struct_error, IndexError):
        while head[at] == 0xFF:
            marker, length = unpack_from(">xBH", head, at)
            if marker == _LOSSLESS_LS or (marker in _ALL_FRAMES and head[at + 4] in _DEEP):
                kind = "is a JPEG-LS" if marker == _LOSSLESS_LS else f"has {head[at + 4]} bits a channel"
                raise MediaError("unsupported-container", f"The JPEG {kind}; accepted are plain JPEGs of 8 bits.")
            if marker in _ALL_FRAMES:
                return
            at += 1 if marker == 0xFF else 2 + length


def has_all_scans(data: bytes) -> bool:
    """Return whether each coefficient of a JPEG, to its last bit, is in a scan that has begun.

    Args:
        data: the file, of which the end may be missing.
    """
    missing: dict[int, set[int]] = {}
    is_progressive, at = False, 2
    with suppress(struct_error, ValueError):
        while True:
            marker, length = unpack_from(">xBH", data, at)
            if marker in _FRAMES:
                is_progressive = marker == _PROGRESSIVE
                missing = {name: set(range(_COEFFICIENTS)) for name in data[at + 10 : at + 2 + length : 3]}
            if marker == _SCAN:
                start = at + 5 + 2 * data[at + 4]
                # Other files hold all of a coefficient in one scan, whatever that says.
                first, last, bits_to_come = data[start : start + 3] if is_progressive else _WHOLE_SCAN
                for name in data[at + 5 : start : 2][:_MAX_CHANNELS] if bits_to_come & 0xF == 0 else ():
                    missing.get(name, set()).difference_update(range(first, last + 1))
            following = _MARKER.search(data, at + 2 + length)
            if following is None:
                break
            at = following.start()
    return bool(missing) and not any(missing.values())


def decode_jpeg(data: bytes, height: int, width: int) -> NDArray[np.uint8] | None:
    """Return the stored pixels of a grey or RGB JPEG, uint8 RGB (H, W, 3); those of CMYK would not be Pillow's.

    Args:
        data: the whole file.
        height, width: of the picture, by Pillow; the limits were checked for them.

    Returns:
        None for a file with any fault, or chroma at a quarter of the height: Pillow may show both.
    """
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except (ValueError, KeyError):  # it lacks a name for 4:4:1, which is 4:1:1 turned by 90 degrees
        return None
    return pixels
