"""MP4 files whose index comes last, as cameras write them, in the order in which they can be decoded as they arrive."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MAX_INDEX_BYTES = 2**28


@dataclass(frozen=True)
class Span:
    """A part of a file: its first byte and its size; or bytes that replace one."""

    start: int
    size: int
    data: bytes | None = None

    def pieces(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield its bytes.

        Args:
            file: the open file.
            size: bytes of a piece at most.
        """
        if self.data is not None:
            yield self.data
            return
        file.seek(self.start)
        left = self.size
        while left and (piece := file.read(min(size, left))):
            yield piece
            left -= len(piece)


def faststart(file: BinaryIO) -> list[Span]:
    """Return the parts of an MP4 file with its index first; the whole of any other file, and of one that is damaged.

    Args:
        file: an open, seekable file; its position is lost.
    """
    end = file.seek(0, os.SEEK_END)
    whole = [Span(0, end)]
    found = [(kind, start, size) for kind, start, size in boxes(file, end) if start + size <= end]
    kinds = [kind for kind, _, _ in found]
    if b"ftyp" not in kinds or b"mdat" not in kinds or kinds.count(b"moov") != 1:
        return whole
    first, moved = kinds.index(b"mdat"), kinds.index(b"moov")
    if moved < first or found[moved][2] > _MAX_INDEX_BYTES:
        return whole
    front, (_, start, size) = found[first][1], found[moved]
    file.seek(start)
    index = bytearray(file.read(size))
    try:
        _shift(index, 0, size, range(front, start), size)
    except (struct.error, ValueError):
        return whole
    after = start + size
    return [Span(0, front), Span(0, size, bytes(index)), Span(front, start - front), Span(after, end - after)]


def boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and size of the outermost boxes of an ISO file, up to the first that reaches past `end`."""
    start = 0
    while end - start >= 8:
        file.seek(start)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        size = size or end - start
        if size < 8:
            return
        yield kind, start, size
        start += size


def _shift(index: bytearray, start: int, end: int, moved: range, by: int) -> None:
    """Correct the places of pictures in an index.

    Args:
        index: the bytes of the box `moov`.
        start, end: of the boxes to look at.
        moved: places in the file that move.
        by: how far, bytes.

    Raises:
        ValueError, struct.error: a box is unsound, or a place does not fit into its field.
    """
    while end - start >= 8:
        size, kind = struct.unpack_from(">I4s", index, start)
        if not 8 <= size <= end - start:
            raise ValueError(f"A box of {size} bytes does not fit into {end - start}.")
        if kind in _CONTAINERS:
            _shift(index, start + 8, start + size, moved, by)
        elif kind in (b"stco", b"co64"):
            (count,) = struct.unpack_from(">I", index, start + 12)
            form = f">{count}{'I' if kind == b'stco' else 'Q'}"
            if struct.calcsize(form) != size - 16:
                raise ValueError(f"A table of {count} places does not have {size} bytes.")
            places = struct.unpack_from(form, index, start + 16)
            struct.pack_into(form, index, start + 16, *(place + by * (place in moved) for place in places))
        elif kind == b"cmov":
            raise ValueError("The index is compressed.")
        start += size
