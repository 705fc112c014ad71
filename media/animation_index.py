"""The frames of animated GIF, PNG and WebP files, found by the blocks that hold them: nothing is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

INDEXED_TYPES = ("image/gif", "image/png", "image/webp")

_APNG_DELAY_UNIT = 100  # a second's share that a denominator of 0 stands for
_GIF_BLOCK = re.compile(rb"[!,;]")
_PNG_HEAD_BYTES, _RIFF_HEAD_BYTES = 8, 12


@dataclass(frozen=True)
class IndexedFrame:
    """A frame as its file states it.

    Args:
        milliseconds: the time for which it is shown; 0 if the file states none.
        right, bottom: the far corner of its pixels on the canvas, where the format lets it grow the canvas; else 0.
    """

    milliseconds: float
    right: int = 0
    bottom: int = 0


def index_frames(data: bytes, media_type: str) -> Iterator[IndexedFrame]:
    """Find the frames of an animation; a picture in PNG or WebP that is not animated has none.

    Args:
        data: the whole file.
        media_type: one of `INDEXED_TYPES`, from the file's content.

    Raises:
        ValueError: the file is cut off.
    """
    walk = {"image/gif": _gif_frames, "image/png": _png_frames, "image/webp": _webp_frames}[media_type]
    try:
        yield from walk(data)
    except (IndexError, struct.error) as error:
        raise ValueError("The file is cut off.") from error


def _gif_frames(data: bytes) -> Iterator[IndexedFrame]:
    at = 13 + _palette_bytes(data[10])
    milliseconds = 0.0
    # Bytes between the blocks are passed over, as by browsers.
    while (found := _GIF_BLOCK.search(data, at)) and found[0] != b";":
        at = found.start()
        if found[0] == b"!":
            if data[at + 1] == 0xF9 and data[at + 2]:  # graphic control
                milliseconds = 10.0 * struct.unpack_from("<H", data, at + 4)[0]
            at = _after_blocks(data, at + 2)
        else:
            left, top, width, height, flags = struct.unpack_from("<4HB", data, at + 1)
            at = _after_blocks(data, at + 11 + _palette_bytes(flags))
            yield IndexedFrame(milliseconds, left + width, top + height)
            milliseconds = 0.0


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Return the position after a chain of blocks, each of which starts with its length."""
    while size := data[at]:
        at += size + 1
    return at + 1


def _png_frames(data: bytes) -> Iterator[IndexedFrame]:
    milliseconds: float | None = None
    for kind, start, size in _chunks(data, _PNG_HEAD_BYTES, ">I4s", 12):
        if kind == b"fcTL":
            number, unit = struct.unpack_from(">2H", data, start + 20)
            milliseconds = 1000 * number / (unit or _APNG_DELAY_UNIT)
        elif kind in (b"IDAT", b"fdAT") and size and milliseconds is not None:
            yield IndexedFrame(milliseconds)
            milliseconds = None
        elif kind == b"IEND":
            return


def _webp_frames(data: bytes) -> Iterator[IndexedFrame]:
    for kind, start, size in _chunks(data, _RIFF_HEAD_BYTES, "<4sI", 8):
        if kind == b"ANMF" and size >= 16:
            yield IndexedFrame(float(int.from_bytes(data[start + 12 : start + 15], "little")))


def _chunks(data: bytes, at: int, header: str, overhead: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and size of each chunk; sizes count neither header nor checksum, nor padding of RIFF."""
    while at < len(data):
        first, second = struct.unpack_from(header, data, at)
        kind, size = (second, first) if isinstance(first, int) else (first, second)
        if at + overhead + size > len(data):
            raise ValueError("The file is cut off.")
        yield kind, at + 8, size
        at += overhead + size + (size & 1 if header.startswith("<") else 0)
