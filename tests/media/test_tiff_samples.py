"""TIFFs whose samples are stored in rarer ways: planes, white as zero, palettes of 8 bits, signed numbers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from media_samples import psnr
from numpy.typing import NDArray
from PIL import Image
from test_tiff import GREY, PHOTO, read, tiff

from media.errors import MediaError

DEEP = PHOTO.astype(np.uint16) * 257
SHORT, LONG = 3, 4
TURNED = 6


def planar(pixels: NDArray[np.unsignedinteger], photometric: int, order: str, **tags: int) -> bytes:
    """Write a file with each channel by itself."""
    height, width, channels = pixels.shape
    kind, bits = pixels.dtype.newbyteorder(order), 8 * pixels.itemsize
    planes = [np.ascontiguousarray(pixels[..., k]).astype(kind).tobytes() for k in range(channels)]
    size, start = len(planes[0]), 8 + len(planes) * len(planes[0])
    arrays = struct.pack(f"{order}{channels}H", *[bits] * channels)
    arrays += struct.pack(f"{order}{2 * channels}I", *[8 + k * size for k in range(channels)], *[size] * channels)
    offsets = start + 2 * channels
    entries: dict[int, tuple[int, int, int]] = {
        256: (LONG, 1, width),
        257: (LONG, 1, height),
        258: (SHORT, channels, start if channels > 2 else bits | bits << 16),
        259: (SHORT, 1, 1),
        262: (SHORT, 1, photometric),
        273: (LONG, channels, offsets),
        277: (SHORT, 1, channels),
        278: (LONG, 1, height),
        279: (LONG, channels, offsets + 4 * channels),
        284: (SHORT, 1, 2),
    } | {int(tag[1:]): (SHORT, 1, value) for tag, value in tags.items()}
    body = b"".join(
        struct.pack(order + ("HHIHxx" if kind == SHORT and count == 1 else "HHII"), tag, kind, count, value)
        for tag, (kind, count, value) in sorted(entries.items())
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start + len(arrays))
    return head + b"".join(planes) + arrays + struct.pack(order + "H", len(entries)) + body + bytes(4)


def close(made: NDArray[Any], expected: NDArray[Any]) -> bool:
    return made.shape == expected.shape and bool(np.abs(made.astype(int) - expected).max() <= 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_channels_of_sixteen_bits_may_be_apart(order: str) -> None:
    solid = np.full((*GREY.shape, 1), 0xFFFF, np.uint16)
    assert close(read(planar(DEEP, 2, order))[0], PHOTO)
    assert close(read(planar(DEEP, 2, order, t274=TURNED))[0], np.rot90(PHOTO, -1))
    assert close(read(planar(np.dstack([0xFFFF - DEEP, 0 * solid]), 5, order))[0], PHOTO)
    half = np.dstack([DEEP // 2, solid // 2])
    assert close(read(planar(half, 2, order, t338=1))[0], PHOTO * 0.5 + 127.5)
    assert close(read(planar(half, 2, order, t338=2))[0], PHOTO * 0.25 + 127.5)


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("pages", [0, 1])
def test_chroma_may_be_stored_for_several_pixels_at_once(across: int, down: int, pages: int) -> None:
    """Blocks of luma and their chroma, as section 21 of the specification says, perhaps with more data behind them."""
    luma, *chroma = np.moveaxis(np.asarray(Image.fromarray(PHOTO).convert("YCbCr")), -1, 0)
    height, width = luma.shape
    blocks = luma.reshape(height // down, down, width // across, across).swapaxes(1, 2).reshape(-1, down * across)
    means = [part.reshape(height // down, down, width // across, across).mean((1, 3)).reshape(-1) for part in chroma]
    stored = np.column_stack([blocks, *means]).round().astype(np.uint8).reshape(1, -1)
    data = tiff(stored, 6, extra=((530, across | down << 16),))
    # Width, height, samples and rows are those of the picture; the two numbers of chroma are shorts.
    for tag, kind, count, value in ((256, 4, 1, width), (257, 4, 1, height), (277, 4, 1, 3), (278, 4, 1, height)):
        at = next(place for place in entries(data) if struct.unpack_from("<H", data, place)[0] == tag)
        data = data[:at] + struct.pack("<HHII", tag, kind, count, value) + data[at + 12 :]
    at = next(place for place in entries(data) if struct.unpack_from("<H", data, place)[0] == 530)
    data = data[:at] + struct.pack("<HHIHH", 530, SHORT, 2, across, down) + data[at + 12 :]
    assert psnr(read(data + bytes(pages * 3 * PHOTO.size))[0], PHOTO) > 30


def entries(data: bytes) -> range:
    """Return the places of the entries of a file's directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    return range(start + 2, start + 2 + 12 * count, 12)


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_may_be_zero_in_sixteen_bits(order: str) -> None:
    assert np.array_equal(read(tiff(0xFFFF - DEEP[..., 0], 0, order))[0], GREY[..., None].repeat(3, -1))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "shown"), [(2, 177), (1, 227)])  # straight, premultiplied
def test_greys_of_sixteen_bits_may_have_alpha(order: str, kind: int, shown: int) -> None:
    stored = np.full((6, 8, 2), 0x8000, np.uint16)
    stored[..., 0] = 100 * 257
    stored[:, 4:, 1] = 0xFFFF
    made = read(tiff(stored, 1, order, ((338, kind),)))[0]
    assert np.abs(made[:, :4].astype(int) - shown).max() <= 1
    assert (made[:, 4:] == 100).all()
    assert (read(tiff(stored, 1, order, ((338, kind), (274, TURNED))))[0] == np.rot90(made, -1)).all()


@pytest.mark.parametrize("scale", [1, 257])
def test_palettes_may_have_eight_bits(scale: int) -> None:
    colours = [(200, 10, 60), (0, 250, 130)] + [(0, 0, 0)] * 254
    table = struct.pack("<768H", *[scale * colour[channel] for channel in range(3) for colour in colours])
    data = tiff(np.array([[0, 1]], np.uint8), 3, extra=((320, 8),))
    # The table goes to the end, and its entry says so.
    at = data.index(struct.pack("<HHIH", 320, SHORT, 1, 8))
    data = data[:at] + struct.pack("<HHII", 320, SHORT, 768, len(data)) + data[at + 12 :] + table
    assert read(data)[0, 0].tolist() == [list(colour) for colour in colours[:2]]


def test_signed_samples_are_refused() -> None:
    with pytest.raises(MediaError, match="guess") as caught:
        read(tiff(GREY // 2, 1, extra=((339, 2),)))
    assert caught.value.code == "unsupported-container"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (planar(DEEP[..., :2], 1, "<", t338=2), "stores its pixels in a way that is not read"),
        (planar(PHOTO[..., :2], 1, "<", t338=2), "stores its pixels in a way that is not read"),
        (b"MM\0+\0\x08\0\0" + bytes(200), "BigTIFF whose first bytes are the high ones"),
    ],
)
def test_what_pillow_does_not_read_is_named(data: bytes, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        read(data)
