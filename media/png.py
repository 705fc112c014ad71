"""Corrections of PNGs, which Pillow refuses, or reads otherwise than browsers, for chunks besides their pixels."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from media.animation_index import png_chunks

_MAX_PROFILE_BYTES = 8_000_000  # some have more than Pillow's 2**20; as libpng
PngImagePlugin.MAX_TEXT_CHUNK = _MAX_PROFILE_BYTES
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Other chunks that change what is shown, and the only size that some of them may have; of an animation, what comes
# before its first picture.
_SIZES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"acTL": 8, b"fcTL": 26}
_SHOWING = (b"tRNS", b"iCCP", b"eXIf", *_SIZES)
_HEAD_BYTES = 8
_COLOUR_TYPE, _PALETTE = 25, 3
_KEY_BYTES = {0: 2, 2: 6}  # of greys and colours
_DEEP_COLOURS, _LOW_BYTES = "RGB;16B", "RGB;16L"  # the bytes of a sample that Pillow keeps
# What Pillow multiplies the samples of shallow grey pictures by.
_SHALLOW = {"L;2": 85, "L;4": 17}


def without_faulty_chunks(data: bytes) -> bytes:
    """Return a PNG without chunks that only describe it, or that are damaged and that browsers pass over.

    Pillow files texts among the properties of a picture: one may have the name of another property.
    """
    parts, seen, end = [data[:_HEAD_BYTES]], set[bytes](), _HEAD_BYTES
    with suppress(ValueError, struct.error):  # Pillow decides how much may be missing
        for kind, start, size in png_chunks(data):
            end = start + size + 4
            is_first = kind in _SHOWING and kind not in seen and (kind == b"eXIf" or b"IDAT" not in seen)
            if kind in _PIXELS or (is_first and _is_sound(data, kind, start, size)):
                parts.append(data[start - 8 : end])
            if kind in _PIXELS or is_first:  # one that is damaged counts too, or trying them would take too long
                seen.add(kind)
            if kind == b"IEND":
                break
    return b"".join([*parts, data[end:]])


def _is_sound(data: bytes, kind: bytes, start: int, size: int) -> bool:
    """Return whether an ancillary chunk of a PNG can be read."""
    end = start + size
    if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        return False
    if kind == b"tRNS":
        colours = data[_COLOUR_TYPE]
        return 0 < size <= 256 if colours == _PALETTE else size == _KEY_BYTES.get(colours)
    if kind == b"iCCP":
        _, _, compressed = data[start:end].partition(b"\0")
        try:
            decompressor = zlib.decompressobj()
            decompressor.decompress(compressed[1:], _MAX_PROFILE_BYTES)
        except zlib.error:
            return False
        return compressed[:1] == b"\0" and not decompressor.unconsumed_tail
    return size == _SIZES.get(kind, size)


def scale_key(image: Image.Image) -> None:
    """Bring a PNG's transparent colour to the depth of Pillow's samples: it is left at the depth of the file."""
    key = image.info.get("transparency")
    if image.format != "PNG" or not image.tile:  # type: ignore[attr-defined]
        return
    depth = image.tile[0].args  # type: ignore[attr-defined]
    if image.mode == "L" and isinstance(key, int):
        scale = _SHALLOW.get(depth, 1)
        # Bits above the file's depth count for nothing.
        image.info["transparency"] = key % (255 // scale + 1) * scale
    elif image.mode == "RGB" and isinstance(key, tuple):
        if depth == _DEEP_COLOURS:
            _apply_deep_key(image, key)
        else:
            image.info["transparency"] = tuple(part & 0xFF for part in key)


def _apply_deep_key(image: Any, key: tuple[int, ...]) -> None:
    """Decode a PNG of 16 bits a channel and make its transparent colour transparent.

    Pillow keeps the high bytes alone, so that neighbours of the colour would be transparent too.
    """
    other = Image.open(io.BytesIO(image.fp.getvalue()), formats=("PNG",))
    other.tile = [tile._replace(args=_LOW_BYTES) for tile in other.tile]
    high, low = np.asarray(image), np.asarray(other)
    is_key = (high == [part >> 8 for part in key]).all(-1) & (low == [part & 0xFF for part in key]).all(-1)
    image.putalpha(Image.fromarray(~is_key * np.uint8(255)))
    del image.info["transparency"]
