"""Small files that ask for much: bombs of pixels, frames, boxes, scans and text, nested or endless structures."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 255, 6000, 16_383, 30_000, 65_535)
DEPTHS = (10, 1000, 20_000)
COUNTS = (41, 1000, 30_000)
TEXT_BYTES = 50_000_000


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield names and files, the same each time."""
    for width in SIDES:
        for height in SIDES:
            yield f"png {width}x{height}", _png(width, height)
            yield f"gif {width}x{height}", _gif(width, height, 1)
    for side in SIDES[1:]:
        yield f"jpeg {side}", _jpeg(side)
        yield f"webp {side}", _webp(side)
        yield (
            f"bmp {side}",
            struct.pack("<2sIHHI", b"BM", 60, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0),
        )
        yield f"tiff {side}", _tiff(side)
    for count in COUNTS:
        yield f"gif of {count} frames", _gif(6000, 6000, count)
        yield f"apng of {count} frames", _apng(count)
        yield f"jpeg of {count} scans", _jpeg_scans(count)
        yield f"mp4 of {count} tracks", _box(b"ftyp", b"isom\0\0\2\0isom") + _box(b"moov", _box(b"trak", b"") * count)
        yield f"mp4 of {count} samples", _sample_tables(count)
        yield f"avi of {count} lists", b"RIFF\xff\xff\xff\x7fAVI " + b"LIST\x04\0\0\0hdrl" * count
        yield f"tiff of {count} folders", _tiff_loop(count)
        yield f"png of {count} texts", PNG + _header(1, 1) + _chunk(b"tEXt", b"a\0b") * count
    for depth in DEPTHS:
        for kind in (b"moov", b"trak", b"meta", b"udta"):
            yield f"mp4 {kind.decode()} in {depth}", _box(b"ftyp", b"isom\0\0\2\0isom") + _nested(kind, depth)
        yield f"webm in {depth}", b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + b"\x18\x53\x80\x67\x01" * depth
        yield (
            f"tags in {depth}",
            b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm" + b"\x12\x54\xc3\x67\xff\x73\x73\xff\x67\xc8\xff" * depth,
        )
        yield f"riff in {depth}", b"RIFF\xff\xff\xff\x7fAVI " + b"LIST\xff\xff\xff\x7fhdrl" * depth
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        head = b"comment\0\0" if kind != b"iTXt" else b"comment\0\1\0\0\0"
        body = head + _zeros(TEXT_BYTES)
        yield f"png {kind.decode()} bomb", PNG + _header(1, 1) + _chunk(kind, body) + _data(4) + _chunk(b"IEND", b"")
    yield "png with too many pixels inside", PNG + _header(8, 8) + _data(30_000_000) + _chunk(b"IEND", b"")
    yield "png without an end", PNG + _header(64, 64) + struct.pack(">I4s", 0x7FFFFFFF, b"IDAT")
    yield "webm of unknown size", b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm\x18\x53\x80\x67\x01" + b"\xff" * 5000
    yield "mp4 that ends itself", _box(b"ftyp", b"isom\0\0\2\0isom") + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1)


@cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _data(count: int) -> bytes:
    return _chunk(b"IDAT", _zeros(count))


def _png(width: int, height: int) -> bytes:
    return PNG + _header(width, height) + _data(2_000_000) + _chunk(b"IEND", b"")


def _apng(count: int) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 6000, 6000, 0, 0, 1, 10, 1, 1)
    frames = (_chunk(b"fcTL", struct.pack(">I", 2 * index) + control[4:]) for index in range(count))
    return PNG + _header(6000, 6000) + _chunk(b"acTL", struct.pack(">II", count, 0)) + b"".join(frames) + _data(1000)


def _gif(width: int, height: int, count: int) -> bytes:
    frame = b"!\xf9\x04\x08\x01\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * count + b";"


def _small_jpeg(progressive: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(file, "JPEG", progressive=progressive)
    return file.getvalue()


def _jpeg(side: int) -> bytes:
    data = bytearray(_small_jpeg())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def _jpeg_scans(count: int) -> bytes:
    data = _small_jpeg(progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xda", start + 2)
    return data[:start] + data[start:end] * count + data[end:]


def _webp(side: int) -> bytes:
    size = min(side, 2**24 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size * 2 + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    body += (b"ANMF" + struct.pack("<I", 24) + bytes(24)) * 100
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(side: int) -> bytes:
    fields = ((256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, 100))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + bytes(4)


def _tiff_loop(count: int) -> bytes:
    folder = struct.pack("<HHHII", 1, 256, 4, 1, 1)
    size = len(folder) + 4
    folders = (folder + struct.pack("<I", 8 + size * ((index + 1) % count)) for index in range(count))
    return b"II*\0\x08\0\0\0" + b"".join(folders)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _nested(kind: bytes, depth: int) -> bytes:
    return b"".join(struct.pack(">I4s", 8 * (depth - level), kind) for level in range(depth))


def _sample_tables(count: int) -> bytes:
    tables = (_box(kind, struct.pack(">III", 0, 2**32 - 1, count) + bytes(8)) for kind in (b"stts", b"stsz", b"ctts"))
    track = _box(b"mdia", _box(b"minf", _box(b"stbl", b"".join(tables))))
    return _box(b"ftyp", b"isom\0\0\2\0isom") + _box(b"moov", _box(b"trak", track))
