"""The cost of decoding a file, known before it is decoded: frames times pixels, by its headers alone."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from media.animation_index import INDEXED_TYPES, index_frames

if TYPE_CHECKING:
    from media.limits import MediaLimits
    from media.types import MediaOptions

# So much of an animation is looked at; whoever calls this has other things to do.
_INDEXED_BYTES = 2**19
_HEAD_BYTES = 2**16
_ANIMATED_BY = {"image/png": b"acTL", "image/webp": b"ANIM", "image/avif": b"avis"}  # in front of the first frame
_MAX_STEPS = 1024
# A clip's pixels follow from its packets, which only a demuxer knows. Most clips hold more pixels to a byte.
_CLIP_PIXELS_PER_BYTE = 4
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3
TIFF_TILE = (323, 322)  # height and width


def decoded_pixels(data: bytes, media_type: str, options: MediaOptions, limits: MediaLimits) -> int:
    """Estimate how many pixels are decoded; a file that lies about it, or that cannot be understood, counts as large.

    Args:
        data: the whole file.
        media_type: from its content.
        options: what of it is wanted.
        limits: bounds, which the decoder enforces.
    """
    if not media_type.startswith("image/"):
        return min(len(data) * _CLIP_PIXELS_PER_BYTE, limits.decoded_pixels)
    try:
        width, height = _size(data, media_type)
    except (struct.error, IndexError, ValueError):
        return limits.image_pixels
    frames = _frames(data, media_type, options, limits) if options.animated else 1
    return min(width * height * frames, max(limits.decoded_pixels, limits.image_pixels))


def _frames(data: bytes, media_type: str, options: MediaOptions, limits: MediaLimits) -> int:
    """Count the frames up to the last that can be wanted."""
    most = limits.animation_frames
    if options.frames is not None and options.sampling == "first" and options.start_s is None:
        most = min(most, options.frames)
    if media_type not in INDEXED_TYPES or _ANIMATED_BY.get(media_type, b"") not in data[:_HEAD_BYTES]:
        return 1
    found = 0
    with suppress(ValueError):
        found = sum(1 for _ in islice(index_frames(data[:_INDEXED_BYTES], media_type), most))
    # What was not looked at may hold as many as it likes.
    return max(1, found) if len(data) <= _INDEXED_BYTES else most


def _size(data: bytes, media_type: str) -> tuple[int, int]:
    """Return the width and height of a picture."""
    match media_type:
        case "image/png":
            return struct.unpack_from(">2I", data, 16)
        case "image/gif":
            return struct.unpack_from("<2H", data, 6)
        case "image/bmp":
            small = data[14] == 12  # bytes of the header of OS/2
            width, height = struct.unpack_from("<2H" if small else "<2i", data, 18)
            return abs(width), abs(height)
        case "image/webp":
            return _webp_size(data)
        case "image/jpeg":
            return _jpeg_size(data)
        case "image/tiff":
            return _tiff_size(data)
        case _:
            return _avif_size(data)


def _webp_size(data: bytes) -> tuple[int, int]:
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = struct.unpack_from("<2H", data, 26)
            return width & 0x3FFF, height & 0x3FFF


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MAX_STEPS):
        mark, marker = data[at], data[at + 1]
        if mark != 0xFF:
            break
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">2H", data, at + 5)
            return width, height
        # Markers may follow bytes that fill up, and some have no length.
        at += 1 if marker == 0xFF else 2 if marker == 1 else 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("The JPEG states no size.")


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        raise ValueError("The directory of a BigTIFF is not read.")
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    sides = {}
    for entry in range(min(count, _MAX_STEPS)):
        at = start + 2 + 12 * entry
        tag, kind = struct.unpack_from(order + "2H", data, at)
        sides[tag] = struct.unpack_from(order + ("H" if kind == _TIFF_SHORT else "I"), data, at + 8)[0]
    if not {_TIFF_WIDTH, _TIFF_HEIGHT} <= sides.keys():
        raise ValueError("The TIFF states no size.")
    tile = (sides.get(tag, 0) for tag in TIFF_TILE)
    height, width = padded_size(sides[_TIFF_HEIGHT], sides[_TIFF_WIDTH], *tile)
    return width, height


def padded_size(height: int, width: int, tile_height: int, tile_width: int) -> tuple[int, int]:
    """Return the (height, width) of a picture in whole tiles, all of which are decoded; without tiles they are 0."""
    if not (tile_height and tile_width):
        return height, width
    return -(-height // tile_height) * tile_height, -(-width // tile_width) * tile_width


def _avif_size(data: bytes) -> tuple[int, int]:
    """Return the largest size among the pictures that the head describes."""
    found = [struct.unpack(">2I", match[1]) for match in re.finditer(rb"ispe\0{4}(.{8})", data[:_HEAD_BYTES], re.S)]
    if not found:
        raise ValueError("The AVIF states no size.")
    return max(found, key=lambda size: size[0] * size[1])
