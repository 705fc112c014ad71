"""Files that are cut off: clips, which demuxers would take for shorter ones, and JPEGs that only lack their end."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from media.ebml import ebml_size
from media.errors import MediaError
from media.faststart import boxes
from media.jpeg import has_all_scans

_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_ESSENTIAL_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
# Writers count the head of a RIFF chunk and its padding or not.
_RIFF_SLACK = 9
_START_BYTES = 4096
_ELEMENT_BYTES = 16  # no name and size are longer
_MAX_VOIDS = 64
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


class PassingFile:
    """A clip that is read once, from its first byte to its last, while the sizes of its outermost elements are noted.

    Args:
        read: returns at most so many bytes; none at the end.
        media_type: a video type of `media.identify`.
    """

    def __init__(self, read: Callable[[int], bytes], media_type: str) -> None:
        self._read, self._media_type = read, media_type
        self._is_boxes = media_type not in ("video/webm", "video/x-matroska", "video/x-msvideo")
        self._start = bytearray()
        self._size = 0
        self._left: float = 0  # of the present box
        self._head = bytearray()
        self._kind, self._has_index = b"", False

    def read(self, size: int, /) -> bytes:
        """Return the next bytes.

        Raises:
            MediaError: "unsupported-container" if the pictures come before the index that says where they are.
        """
        data = self._read(size)
        self._size += len(data)
        if self._is_boxes:
            self._pass_boxes(data)
        elif len(self._start) < _START_BYTES:
            self._start += data[: _START_BYTES - len(self._start)]
        return data

    def is_whole(self) -> bool:
        """Return whether the outermost elements ended where the file did; to be asked at its end."""
        if self._is_boxes:
            return self._left in (0, math.inf) or self._kind not in _ESSENTIAL_BOXES
        start = io.BytesIO(bytes(self._start))
        fits = _chunks_fit if self._media_type == "video/x-msvideo" else _segment_fits
        return fits(start, self._size)

    def _pass_boxes(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = int(min(self._left, len(data) - at))
                at, self._left = at + step, self._left - step
                continue
            wanted = 16 if self._head[:4] == b"\0\0\0\1" else 8
            taken = data[at : at + wanted - len(self._head)]
            self._head += taken
            at += len(taken)
            if len(self._head) == 8 and self._head[:4] == b"\0\0\0\1":
                continue
            if len(self._head) == wanted:
                self._enter_box()

    def _enter_box(self) -> None:
        size, self._kind = int.from_bytes(self._head[:4], "big"), bytes(self._head[4:8])
        if size == 1:
            size = int.from_bytes(self._head[8:], "big")
        # 0 means up to the end of the file; what is smaller than its own head is junk that players ignore.
        self._left = size - len(self._head) if size >= len(self._head) else math.inf
        self._head.clear()
        self._has_index |= self._kind == b"moov"
        if self._kind == b"mdat" and not self._has_index:
            raise MediaError(
                "unsupported-container",
                "The index of this file comes after its pictures, so that it cannot be decoded while it arrives. "
                "Move it to the front with ffmpeg -i IN -c copy -movflags +faststart OUT.mp4.",
            )


def _boxes_fit(file: BinaryIO, end: int) -> bool:
    """Walk the boxes of an ISO file; what follows after the last sound one is junk that players ignore."""
    for kind, start, size in boxes(file, end):
        if start + size > end:
            return kind not in _ESSENTIAL_BOXES
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
    size, start = ebml_size(file.read(_ELEMENT_BYTES), len(_EBML))
    at = start + (size or 0)
    head = b""
    for _ in range(_MAX_VOIDS):
        file.seek(at)
        head = file.read(_ELEMENT_BYTES)
        if head[:1] != _VOID:
            break
        size, start = ebml_size(head, len(_VOID))
        at += start + (size or 0)
    if not head:  # of a file that passes by only the start is there
        return at < end
    if head[:4] != _SEGMENT:
        return False
    size, start = ebml_size(head, len(_SEGMENT))
    return size is None or at + start + size <= end


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
    if not has_all_scans(body):
        raise OSError("Later scans of the picture are missing.")
    # Where the decoder runs out of data it would read whatever follows: both pictures agree up to there.
    pictures = [decode(io.BytesIO(body + tail + b"\xff\xd9")) for tail in (b"", bytes(range(255)))]
    one, other = map(np.asarray, pictures)
    different = np.flatnonzero((one != other).reshape(len(one), -1).any(1))
    if len(different) and (len(one) - different[0]) * _MISSING > len(one):
        raise OSError("Too much of the picture is missing.")
    return pictures[0]
