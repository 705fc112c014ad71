"""PNGs whose pixels are sound, but not the chunks that describe them: browsers show them."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import ImageCms
from test_image_cases import chunk, png, profile, read

from media.errors import MediaError
from media.types import MediaOptions

COLOUR = (10, 200, 30)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def solid(extra: bytes) -> bytes:
    return png(16, 8, 8, 2, bytes(COLOUR) * 16, extra)


def damaged(kind: bytes, body: bytes) -> bytes:
    """A chunk whose checksum is wrong."""
    whole = chunk(kind, body)
    return whole[:-1] + bytes([whole[-1] ^ 1])


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        damaged(b"tEXt", b"Comment\0hello"),
        damaged(b"gAMA", (100_000).to_bytes(4, "big")),
        chunk(b"gAMA", b"\0"),
        chunk(b"pHYs", b"\0"),
        chunk(b"zTXt", b"Comment\0\1" + bytes(9)),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(9 << 20))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(9 << 20))),
        chunk(b"iCCP", b"large\0\0" + zlib.compress(SRGB + bytes(2 << 20))),
        chunk(b"iCCP", b"larger\0\0" + zlib.compress(SRGB + bytes(9 << 20))),
        chunk(b"iCCP", b"other method\0\1" + zlib.compress(SRGB)),
        chunk(b"iCCP", b""),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0"),
        # Pillow files texts among what these are called.
        *(chunk(b"tEXt", name + b"\0text") for name in (b"gamma", b"transparency", b"icc_profile", b"default_image")),
    ],
)
@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_the_pixels_are_shown(extra: bytes, animated: bool, junk: bytes) -> None:
    plain = solid(b"")
    end = plain.index(b"IEND") - 4
    for data in (solid(extra), plain[:end] + extra + plain[end:]):
        assert np.abs(read(data + junk, MediaOptions(animated=animated)).astype(int) - COLOUR).max() <= 1


def test_the_first_chunk_of_a_kind_counts_and_none_of_colours_behind_the_pixels() -> None:
    """A value of 128 by a gamma of 1 is 188 in sRGB."""
    plain, linear, usual = (chunk(b"gAMA", gamma.to_bytes(4, "big")) for gamma in (45_455, 100_000, 45_455))
    grey = b"\x80" * 48
    assert np.abs(read(png(16, 8, 8, 2, grey, linear + usual)).astype(int) - 188).max() <= 1
    data = png(16, 8, 8, 2, grey, plain)
    end = data.index(b"IEND") - 4
    assert (read(data[:end] + linear + data[end:]) == 128).all()


def test_sound_chunks_apply_next_to_a_damaged_one() -> None:
    """A linear value of 128 is 188 in sRGB."""
    linear = chunk(b"iCCP", b"linear\0\0" + zlib.compress(profile(b"RGB ")))
    for extra in (linear, damaged(b"tEXt", b"a\0b") + linear):
        assert np.abs(read(png(16, 8, 8, 2, b"\x80" * 48, extra)).astype(int) - 188).max() <= 1


def test_damage_to_what_holds_the_pixels_is_refused() -> None:
    data = solid(damaged(b"tEXt", b"a\0b"))
    header = data.index(b"IHDR") + 4 + 13
    for broken in (data[:header] + bytes(4) + data[header + 4 :], data[:-30]):
        with pytest.raises(MediaError, match="corrupt-media"):
            read(broken)
