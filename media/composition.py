"""Animated GIFs and PNGs, whose frames change parts of the canvas, composed as browsers do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Container, Iterator
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from PIL import Image

from media.animation_index import IndexedFrame, index_frames, palette_bytes, png_chunks
from media.picture_file import continuous, open_picture, without_empty_alpha

if TYPE_CHECKING:
    from media.limits import MediaLimits

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_FORM = slice(24, 29)  # depth, kind of colours and so on, after the size
_PNG_KIND, _COLOUR = 25, 2  # the bit of the kind that greys lack
_PALETTE_BYTES = 768
_OPAQUE = ("L", "RGB")


def compose(
    data: bytes, media_type: str, height: int, width: int, limits: MediaLimits | None, wanted: Container[int]
) -> Iterator[tuple[int, Image.Image]]:
    """Yield the number and the canvas of frames: grey or RGB, with alpha where something of it is transparent.

    Pillow decodes each frame as a file of its own: it would clear to the background colour, which browsers ignore,
    keep how a frame disappears for later ones, and mix half-transparent colours wrongly.

    Args:
        data: the whole file.
        media_type: of a GIF or PNG.
        height, width: of the canvas; what lies outside of it is cut off.
        limits: bounds of a frame, None for trusted files.
        wanted: numbers of frames; the others are only decoded.

    Raises:
        MediaError, or what Pillow raises for damaged files.
    """
    mode, as_file = "RGBA", partial(_gif, data)
    if media_type == "image/png":
        mode, as_file = "RGBA" if data[_PNG_KIND] & _COLOUR else "LA", partial(_png, data, _png_palette(data))
    canvas = None
    for index, frame in enumerate(index_frames(data, media_type)):
        shown = canvas
        box = frame.left, frame.top, min(frame.left + frame.width, width), min(frame.top + frame.height, height)
        is_seen = box[0] < box[2] and box[1] < box[3]  # others only take time
        if is_seen:
            picture = open_picture(io.BytesIO(as_file(frame)), media_type, limits)
            part = continuous(picture.crop((0, 0, box[2] - box[0], box[3] - box[1])))
            if part.mode[0] != mode[0]:  # a grey palette
                part = part.convert("RGB" if part.mode == "L" else "RGBA")
            if part.mode in _OPAQUE and part.size == (width, height):
                shown = part
            else:
                shown = _drawn(canvas or Image.new(mode, (width, height)), part, box[:2], frame.replaces)
        shown = shown or Image.new(mode, (width, height))
        if index in wanted:
            yield index, shown
        if frame.disposal == "keep":
            canvas = shown
        elif frame.disposal == "clear" and is_seen:
            canvas = shown.convert(mode)
            canvas.paste((0,) * len(mode), box)


def _drawn(canvas: Image.Image, picture: Image.Image, place: tuple[int, int], replaces: bool) -> Image.Image:
    """Return the canvas with a picture in its place."""
    if picture.mode in _OPAQUE or (canvas.mode in _OPAQUE and not replaces):
        drawn = canvas.copy()
        drawn.paste(picture, place, None if picture.mode in _OPAQUE else picture)
        return without_empty_alpha(drawn)
    drawn = canvas.convert(picture.mode)
    if replaces:
        drawn.paste(picture, place)
    else:
        drawn.alpha_composite(picture, place)
    return without_empty_alpha(drawn)


def _gif(data: bytes, frame: IndexedFrame) -> bytes:
    """Return a frame as a GIF of its size."""
    palette = data[10 : 13 + palette_bytes(data[10])]
    control = b"" if frame.key is None else b"!\xf9\4" + struct.pack("<BHBB", 1, 0, frame.key, 0)
    size = struct.pack("<2H", frame.width, frame.height)
    return b"".join((b"GIF89a", size, palette, control, b",", bytes(4), size, *_compressed(data, frame), b";"))


def _png_palette(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a palette, and of what is transparent in it."""
    before = takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data))
    return {
        kind: data[start : start + size]
        for kind, start, size in before
        if kind in (b"PLTE", b"tRNS") and size <= _PALETTE_BYTES
    }


def _png(data: bytes, palette: dict[bytes, bytes], frame: IndexedFrame) -> bytes:
    """Return a frame as a PNG of its size."""
    header = struct.pack(">2I", frame.width, frame.height) + data[_PNG_FORM]
    chunks = {b"IHDR": header, **palette, b"IDAT": b"".join(_compressed(data, frame)), b"IEND": b""}
    return _PNG_HEAD + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    )


def _compressed(data: bytes, frame: IndexedFrame) -> Iterator[bytes]:
    return (data[part] for part in frame.parts)
