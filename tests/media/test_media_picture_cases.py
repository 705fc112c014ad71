"""Pictures that decoders and browsers used to disagree about: each is shown as browsers show it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from media_samples import animation, pattern
from numpy.typing import NDArray

from service.media.reader import open_frames
from service.media.source import FrameReader
from service.media.types import MediaOptions
from service.settings import Limits

LIMITS = Limits()
ANIMATED = MediaOptions(animated=True)


def opened(data: bytes, options: MediaOptions | None = None) -> FrameReader:
    return open_frames(io.BytesIO(data), LIMITS, options)


def read(data: bytes, options: MediaOptions | None = None) -> NDArray[np.uint8]:
    return np.stack(list(opened(data, options)))


@pytest.mark.parametrize(("kind", "milliseconds", "fps"), [("GIF", 10, 10), ("GIF", 20, 50), ("WEBP", 10, 10)])
def test_frames_that_claim_to_be_too_short_last_a_tenth_of_a_second(kind: str, milliseconds: int, fps: int) -> None:
    moving = opened(animation(pattern(3, 16, 16), kind, milliseconds), ANIMATED)
    assert len(list(moving)) == 3
    assert moving.info().fps == pytest.approx(fps)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "other"),
    [
        (1, 0, bytes([0b01010101] * 4), struct.pack(">H", 1), 0),
        (2, 0, bytes([0b10011001] * 8), struct.pack(">H", 5), 170),
        (4, 0, bytes([0xA3] * 16), struct.pack(">H", 3), 170),
        (8, 0, bytes([170, 3] * 16), struct.pack(">H", 3), 170),
        # The two greys differ only in their low bytes.
        (16, 0, struct.pack(">HH", 0xAA01, 0xAA00) * 16, struct.pack(">H", 0xAA00), 170),
        (8, 2, bytes([170, 170, 170, 3, 4, 5] * 16), struct.pack(">HHH", 3, 4, 5), 170),
        (
            16,
            2,
            struct.pack(">6H", *[0xAA00] * 3, 0x300, 0x400, 0x500) * 16,
            struct.pack(">HHH", 0x300, 0x400, 0x500),
            170,
        ),
    ],
)
def test_the_transparent_colour_of_every_depth_is_white(
    depth: int, colour: int, row: bytes, key: bytes, other: int
) -> None:
    frame = read(png(32, 8, depth, colour, row, chunk(b"tRNS", key)))[0]
    assert (frame[:, ::2] == other).all()
    assert (frame[:, 1::2] == 255).all()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of equal rows; `extra` are chunks to stand before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
