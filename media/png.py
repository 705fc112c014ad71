"""Corrections of PNGs, which Pillow refuses, or reads otherwise than browsers, for chunks besides their pixels."""

from __future__ import annotations

import zlib

from PIL import Image, PngImagePlugin

from media.animation_index import png_chunks

PngImagePlugin.MAX_TEXT_CHUNK = 8_000_000  # of a profile too, some of which have more than Pillow's 2**20; as libpng
# Chunks that change what is shown, and the only size that some of them may have.
_SHOWING = {
    b"tRNS": None, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"iCCP": None, b"eXIf": None, b"acTL": 8, b"fcTL": 26,
    b"fdAT": None,
}  # fmt: skip
_HEAD_BYTES = 8
_ANCILLARY = 0x20  # bit of the first letter of a chunk
# What Pillow multiplies the samples of shallow grey pictures by.
_SHALLOW = {"L;2": 85, "L;4": 17}


def without_faulty_chunks(data: bytes) -> bytes:
    """Return a PNG without chunks that only describe it, or that are damaged and that browsers pass over.

    Raises:
        ValueError: the file is cut off.
    """
    parts = [data[:_HEAD_BYTES]]
    for kind, start, size in png_chunks(data):
        end = start + size
        is_sound = zlib.crc32(data[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        if not kind[0] & _ANCILLARY or (is_sound and _SHOWING.get(kind, -1) in (None, size)):
            parts.append(data[start - 8 : end + 4])
    return b"".join(parts)


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
        # Pillow keeps only the high bytes of deep colours, so that only these can be compared.
        image.info["transparency"] = tuple(part >> 8 if depth == "RGB;16B" else part & 0xFF for part in key)
