"""Animated GIFs and PNGs, whose frames change parts of the canvas, composed as browsers do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Container, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.animation_index import IndexedFrame, index_frames, palette_bytes, png_chunks
from media.picture_file import continuous, open_picture

if TYPE_CHECKING:
    from media.limits import MediaLimits

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_FORM = slice(24, 29)  # depth, colour type and so on, after the size


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
    canvas: NDArray[np.uint8] | None = None
    as_file = partial(_gif, data) if media_type == "image/gif" else partial(_png, data, _png_colours(data))
    for index, frame in enumerate(index_frames(data, media_type)):
        pixels = _pixels(as_file(frame), media_type, limits) if frame.width and frame.height else None
        if canvas is None:
            channels = 4 if pixels is None else pixels.shape[-1]
            canvas = np.zeros((height, width, channels), np.uint8)
        before = canvas.copy() if frame.disposal == "restore" else canvas
        part = canvas[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        if pixels is not None:  # some frames only take time
            pixels = pixels[: part.shape[0], : part.shape[1]]
            part[:] = pixels if frame.replaces else _over(pixels, part)
        if index in wanted:
            opaque = canvas[..., 0] if canvas.shape[-1] == 2 else canvas[..., :-1]
            yield index, Image.fromarray(opaque if (canvas[..., -1] == 255).all() else canvas)
        if frame.disposal == "clear":
            part[:] = 0
        canvas = before


def _pixels(data: bytes, media_type: str, limits: MediaLimits | None) -> NDArray[np.uint8]:
    """Return grey or RGB pixels with alpha of a file of one picture."""
    opened = open_picture(io.BytesIO(data), media_type, limits)
    opened.load()
    picture = continuous(opened)
    is_grey = media_type == "image/png" and picture.mode in ("L", "LA")
    return np.asarray(picture.convert("LA" if is_grey else "RGBA"))


def _over(above: NDArray[np.uint8], below: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay straight-alpha pixels over others: (H, W, C), alpha last."""
    alpha = above[..., -1:]
    if ((alpha == 0) | (alpha == 255)).all():
        return np.where(alpha, above, below)
    weight = alpha / np.float32(255)
    rest = below[..., -1:] / np.float32(255) * (1 - weight)
    total = weight + rest
    colours = (above[..., :-1] * weight + below[..., :-1] * rest) / np.maximum(total, np.float32(1e-6))
    return (np.concatenate([colours, 255 * total], -1) + np.float32(0.5)).astype(np.uint8)


def _gif(data: bytes, frame: IndexedFrame) -> bytes:
    """Return a frame as a GIF of its size."""
    palette = data[10 : 13 + palette_bytes(data[10])]
    control = b"" if frame.key is None else b"!\xf9\4" + struct.pack("<BHBB", 1, 0, frame.key, 0)
    size = struct.pack("<2H", frame.width, frame.height)
    return b"GIF89a" + size + palette + control + b"," + bytes(4) + size + _compressed(data, frame) + b";"


def _png(data: bytes, colours: list[tuple[bytes, bytes]], frame: IndexedFrame) -> bytes:
    """Return a frame as a PNG of its size."""
    header = struct.pack(">2I", frame.width, frame.height) + data[_PNG_FORM]
    chunks = [(b"IHDR", header), *colours, (b"IDAT", _compressed(data, frame)), (b"IEND", b"")]
    return _PNG_HEAD + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _png_colours(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of the palette and of transparency, which all frames share."""
    return [(kind, data[start : start + size]) for kind, start, size in png_chunks(data) if kind in (b"PLTE", b"tRNS")]


def _compressed(data: bytes, frame: IndexedFrame) -> bytes:
    return b"".join(data[part] for part in frame.parts)
