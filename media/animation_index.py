"""The frames of animated GIF, PNG, WebP and AVIF files, found by the blocks that hold them: nothing is decoded."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from functools import reduce
from itertools import repeat
from typing import Literal, NamedTuple

from media.faststart import boxes

Disposal = Literal["keep", "clear", "restore"]

INDEXED_TYPES = ("image/gif", "image/png", "image/webp", "image/avif")

_APNG_DELAY_UNIT = 100  # a second's share that a denominator of 0 stands for
_GIF_BLOCK = re.compile(rb"[!,;]")
_GIF_DISPOSALS: dict[int, Disposal] = {2: "clear", 3: "restore", 4: "restore"}  # by an old specification
_PNG_DISPOSALS: dict[int, Disposal] = {1: "clear", 2: "restore"}
_PNG_HEAD_BYTES, _PNG_CONTROL_BYTES, _RIFF_HEAD_BYTES = 8, 26, 12


class IndexedFrame(NamedTuple):
    """A frame as its file states it; of WebP and AVIF its time alone.

    Args:
        milliseconds: the time for which it is shown; 0 if the file states none.
        left, top, width, height: of its pixels on the canvas.
        disposal: what becomes of these pixels before the next frame.
        replaces: transparent pixels are copied too, instead of showing what was there.
        key: the transparent entry of the palette of a GIF.
        parts: of the file, which make up the compressed picture.
    """

    milliseconds: float
    left: int = 0
    top: int = 0
    width: int = 0
    height: int = 0
    disposal: Disposal = "keep"
    replaces: bool = False
    key: int | None = None
    parts: tuple[slice, ...] = ()


def index_frames(data: bytes, media_type: str) -> Iterator[IndexedFrame]:
    """Find the frames of an animation; a picture in PNG, WebP or AVIF that is not animated has none.

    Args:
        data: the whole file.
        media_type: one of `INDEXED_TYPES`, from the file's content.

    Raises:
        ValueError: the file is cut off.
    """
    walks = {"image/gif": _gif_frames, "image/png": _png_frames, "image/webp": _webp_frames, "image/avif": _avif_frames}
    try:
        yield from walks[media_type](data)
    except (IndexError, struct.error) as error:
        raise ValueError("The file is cut off.") from error


def _gif_frames(data: bytes) -> Iterator[IndexedFrame]:
    at = 13 + palette_bytes(data[10])
    unstated: tuple[float, Disposal, int | None] = (0.0, "keep", None)
    control = unstated
    # Bytes between the blocks are passed over, as by browsers.
    while (found := _GIF_BLOCK.search(data, at)) and found[0] != b";":
        at = found.start()
        if found[0] == b"!":
            if data[at + 1] == 0xF9 and data[at + 2]:
                flags, hundredths, key = struct.unpack_from("<BHB", data, at + 3)
                disposal = _GIF_DISPOSALS.get(flags >> 2 & 7, "keep")
                control = (10.0 * hundredths, disposal, key if flags & 1 else None)
            at = _after_blocks(data, at + 2)
        else:
            left, top, width, height, flags = struct.unpack_from("<4HB", data, at + 1)
            start, at = at + 9, _after_blocks(data, at + 11 + palette_bytes(flags))
            milliseconds, disposal, key = control
            yield IndexedFrame(milliseconds, left, top, width, height, disposal, False, key, (slice(start, at),))
            control = unstated


def palette_bytes(flags: int) -> int:
    """Return the size of a palette of a GIF by the flags before it."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Return the position after a chain of blocks, each of which starts with its length; the end may be missing."""
    while at != len(data) and (size := data[at]):
        at += size + 1
    return at + 1


def _png_frames(data: bytes) -> Iterator[IndexedFrame]:
    control: IndexedFrame | None = None
    parts: list[slice] = []
    for kind, start, size in png_chunks(data):
        if kind == b"IEND":
            break
        if kind == b"fcTL" and size == _PNG_CONTROL_BYTES:
            if control is not None and parts:
                yield control._replace(parts=tuple(parts))
            width, height, left, top, number, unit, disposal, blend = struct.unpack_from(">4I2H2B", data, start + 4)
            milliseconds, disposes = 1000 * number / (unit or _APNG_DELAY_UNIT), _PNG_DISPOSALS.get(disposal, "keep")
            control, parts = IndexedFrame(milliseconds, left, top, width, height, disposes, not blend), []
        elif kind == b"IDAT" and size:
            parts.append(slice(start, start + size))
        elif kind == b"fdAT" and size > 4:  # bytes of a number
            parts.append(slice(start + 4, start + size))
    if control is not None and parts:
        yield control._replace(parts=tuple(parts))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and size of the content of each chunk of a PNG."""
    return _chunks(data, _PNG_HEAD_BYTES, ">I4s", 12)


def _webp_frames(data: bytes) -> Iterator[IndexedFrame]:
    for kind, start, size in _chunks(data, _RIFF_HEAD_BYTES, "<4sI", 8):
        if kind == b"ANMF" and size >= 16:
            yield IndexedFrame(float(int.from_bytes(data[start + 12 : start + 15], "little")))


def _avif_frames(data: bytes) -> Iterator[IndexedFrame]:
    media = reduce(content_of, (b"moov", b"trak", b"mdia"), data)
    if not media:
        return
    header, table = content_of(media, b"mdhd"), reduce(content_of, (b"minf", b"stbl", b"stts"), media)
    (second,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    (entries,) = struct.unpack_from(">I", table, 4)
    for entry in range(entries):
        frames, duration = struct.unpack_from(">2I", table, 8 + 8 * entry)
        yield from repeat(IndexedFrame(1000 * duration / max(1, second)), frames)


def content_of(data: bytes, name: bytes) -> bytes:
    """Return the content of the first ISO box of a name, or nothing."""
    found = (slice(at + 8, at + size) for kind, at, size in boxes(io.BytesIO(data), len(data)) if kind == name)
    return data[next(found, slice(0))]


def _chunks(data: bytes, at: int, header: str, overhead: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and size of each chunk; sizes count neither header nor checksum, nor padding of RIFF."""
    while at < len(data):
        first, second = struct.unpack_from(header, data, at)
        kind, size = (second, first) if isinstance(first, int) else (first, second)
        if at + overhead + size > len(data):
            raise ValueError("The file is cut off.")
        yield kind, at + 8, size
        at += overhead + size + (size & 1 if header.startswith("<") else 0)
