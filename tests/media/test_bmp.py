"""BMPs whose colours are bits by masks."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import pattern, saved
from PIL import Image, ImageCms

from media.errors import MediaError
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions

PHOTO = pattern(1, 13, 17)[0]
RAMP = np.broadcast_to(np.linspace(0, 255, 17).astype(np.uint8), (13, 17))[..., None]
ALPHA = np.concatenate([PHOTO, RAMP], -1)


def read(data: bytes) -> np.ndarray:
    return next(iter(open_frames(io.BytesIO(data), MediaLimits())))


def bmp(
    pixels: np.ndarray,
    bits: int,
    masks: tuple[int, ...],
    header: int = 124,
    compression: int = 3,
    top_down: bool = False,
) -> bytes:
    """A picture of RGB or RGBA with the bits of each channel where its mask is."""
    height, width, _ = pixels.shape
    codes = np.zeros((height, width), np.uint64)
    for channel, mask in enumerate(masks):
        low = mask & -mask
        codes |= np.rint(pixels[..., channel] / 255 * (mask // low)).astype(np.uint64) * np.uint64(low)
    rows = [row.astype(f"<u{bits // 8}").tobytes() for row in (codes if top_down else codes[::-1])]
    body = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, *(0,) * 5)
    info += struct.pack(f"<{len(masks)}I", *masks)
    info = info.ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F), 5),
    "565, blue first": (16, (0x1F, 0x7E0, 0xF800), 5),
    "555": (16, (0x7C00, 0x3E0, 0x1F), 5),
    "444": (16, (0xF00, 0xF0, 0xF), 9),
    "888": (32, (0xFF0000, 0xFF00, 0xFF), 0),
    "888, red first": (32, (0xFF, 0xFF00, 0xFF0000), 0),
    "888 from above": (32, (0xFF000000, 0xFF0000, 0xFF00), 0),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF), 1),
}


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("name", MASKS)
def test_colours_are_where_the_masks_say(name: str, header: int, top_down: bool) -> None:
    bits, masks, error = MASKS[name]
    shown = read(bmp(PHOTO, bits, masks, header, top_down=top_down))
    assert np.abs(shown.astype(int) - PHOTO).max() <= error


@pytest.mark.parametrize(
    ("bits", "masks", "error"),
    [
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 1),
        (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF), 1),
        (16, (0xF00, 0xF0, 0xF, 0xF000), 18),
    ],
)
@pytest.mark.parametrize(("header", "compression"), [(124, 3), (108, 3), (56, 3), (40, 6)])
def test_alpha_stands_on_white(bits: int, masks: tuple[int, ...], error: int, header: int, compression: int) -> None:
    shown = read(bmp(ALPHA, bits, masks, header, compression))
    weight = RAMP / 255
    assert np.abs(shown - (PHOTO * weight + 255 * (1 - weight))).max() <= error


def test_sixteen_bits_without_masks_are_rounded_as_those_with_them() -> None:
    assert np.array_equal(
        read(bmp(PHOTO, *MASKS["555"][:2], header=40, compression=0)), read(bmp(PHOTO, *MASKS["555"][:2]))
    )


@pytest.mark.parametrize(("place", "side"), [(18, 0), (18, -16), (22, 0)])
@pytest.mark.parametrize("size", [None, (8, 8)])
def test_a_picture_without_pixels_is_refused(place: int, side: int, size: tuple[int, int] | None) -> None:
    data = bytearray(bmp(PHOTO, *MASKS["555"][:2], header=40, compression=0))
    struct.pack_into("<i", data, place, side)
    with pytest.raises(MediaError, match="corrupt-media"):
        open_frames(io.BytesIO(bytes(data)), MediaLimits(), MediaOptions(size=size))


def test_an_embedded_profile_is_applied() -> None:
    """The profile is of sRGB with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), PHOTO.shape)
    data = bytearray(bmp(red, *MASKS["888"][:2]))
    data[14 + 56 : 14 + 60] = b"DEBM"
    struct.pack_into("<2I", data, 14 + 112, len(data) - 14, len(profile))
    assert np.abs(read(bytes(data) + profile).astype(int) - [0, 255, 0]).max() <= 1
    data[14 + 56 : 14 + 60] = b"BGRs"
    assert np.array_equal(read(bytes(data) + profile), red)


def test_an_alpha_that_is_empty_counts_for_nothing() -> None:
    empty = np.concatenate([PHOTO, np.zeros_like(RAMP)], -1)
    assert np.array_equal(read(bmp(empty, 32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))), PHOTO)


def test_masked_bmps_obey_the_limits_and_end_where_they_say() -> None:
    data = bmp(PHOTO, *MASKS["444"][:2])
    for damaged in (data[:-1], data[:60], data[:18] + struct.pack("<i", -17) + data[22:]):
        with pytest.raises(MediaError, match="corrupt-media"):
            read(damaged)
    with pytest.raises(MediaError, match="too-many-pixels"):
        read(data[:18] + struct.pack("<ii", 16_000, 16_000) + data[26:])


def test_other_bmps_are_read_as_before() -> None:
    assert np.array_equal(read(saved(Image.fromarray(PHOTO), "BMP")), PHOTO)
