"""Detection of cut-off containers: demuxers take a file that ends between two frames for a shorter clip."""

from __future__ import annotations

import os
from typing import BinaryIO

_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_ESSENTIAL_BOXES = (b"ftyp", b"moov", b"mdat", b"moof")
# Writers count the head of a RIFF chunk and its padding or not.
_RIFF_SLACK = 9


def is_whole(file: BinaryIO, media_type: str) -> bool:
    """Compare the sizes that the outermost elements state with the size of the file.

    Args:
        file: an open, seekable file; its position is lost.
        media_type: a video type of `media.media_types`.

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


def ebml_size(head: bytes, start: int) -> tuple[int | None, int]:
    """A variable-length size at `start`, None for unknown, and where the content begins."""
    if start >= len(head) or head[start] == 0:
        return None, start + 1
    length = 9 - head[start].bit_length()
    bits = 7 * length
    size = int.from_bytes(head[start : start + length], "big") & ((1 << bits) - 1)
    return (None if size == (1 << bits) - 1 else size), start + length
