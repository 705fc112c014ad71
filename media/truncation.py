"""Files that are cut off: clips, which demuxers would take for shorter ones, and JPEGs that only lack their end."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from media.ebml import ebml_size

_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_ESSENTIAL_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
# Writers count the head of a RIFF chunk and its padding or not.
_RIFF_SLACK = 9
# One row in this many may be missing at the bottom of a JPEG that was cut off.
_MISSING = 16


def is_whole(file: BinaryIO, media_type: str) -> bool:
    """Compare the sizes that the outermost elements state with the size of the file.

    Args:
        file: an open, seekable file; its position is lost.
        media_type: a video type of `media.identify`.

    Returns:
        False if an element ends beyond the file. A live recording, which states no size, counts as whole.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if media_type in ("video/webm", "video/x-matroska"):
        return _segment_fits(file, end)
    return _chunks_fit(file, end) if media_type == "video/x-msvideo" else _boxes_fit(file, end)


def _boxes_fit(file: BinaryIO, end: int) -> bool:
    """Walk the boxes of an ISO file; what follows after the last sound one is junk that players ignore."""
    start = 0
    while end - start >= 8:
        file.seek(start)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0 means up to the end of the file
            return True
        if start + size > end:
            return kind not in _ESSENTIAL_BOXES
        start += size
    return True


def _chunks_fit(file: BinaryIO, end: int) -> bool:
    """Walk the RIFF chunks of an AVI file; recorders that were switched off leave a size of 0."""
    start = 0
    while end - start >= 8:
        file.seek(start)
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or not size:
            return True
        start += 8 + size + size % 2
    return start <= end + _RIFF_SLACK


def _segment_fits(file: BinaryIO, end: int) -> bool:
    head = file.read(4096)
    size, start = ebml_size(head, len(_EBML))
    segment = start + (size or 0)
    while head[segment : segment + 1] == _VOID:
        size, start = ebml_size(head, segment + len(_VOID))
        segment = start + (size or 0)
    if head[segment : segment + 4] != _SEGMENT:
        return False
    size, start = ebml_size(head, segment + len(_SEGMENT))
    return size is None or start + size <= end


def without_end(data: bytes, decode: Callable[[BinaryIO], Image.Image]) -> Image.Image:
    """Decode a JPEG whose last bytes are missing.

    Args:
        data: the file.
        decode: opens and loads a JPEG.

    Returns:
        The loaded picture; rows that are missing at its bottom, at most one in `_MISSING`, are grey.

    Raises:
        OSError: more than that is missing, or the file is damaged in another way.
    """
    body = data.removesuffix(b"\xff")
    # Where the decoder runs out of data it would read whatever follows: both pictures agree up to there.
    pictures = [decode(io.BytesIO(body + tail + b"\xff\xd9")) for tail in (b"", bytes(range(255)))]
    one, other = map(np.asarray, pictures)
    different = np.flatnonzero((one != other).reshape(len(one), -1).any(1))
    if len(different) and (len(one) - different[0]) * _MISSING > len(one):
        raise OSError("Too much of the picture is missing.")
    return pictures[0]
