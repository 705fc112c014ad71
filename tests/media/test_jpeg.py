"""JPEGs that libjpeg-turbo decodes alone have Pillow's pixels, or are left to Pillow; baseline ones are known."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media.jpeg import baseline_size, decode_jpeg


def jpeg(height: int, width: int, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(48, 64), (37, 51)])
@pytest.mark.parametrize(
    "options",
    [
        *({"subsampling": name, "progressive": slow} for name in ("4:4:4", "4:2:2", "4:2:0") for slow in (False, True)),
        {"mode": "L"},
        {"keep_rgb": True},
        {"restart_marker_blocks": 3, "quality": 30},
    ],
    ids=str,
)
def test_pixels_are_those_of_pillow(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = jpeg(*size, **options)
    assert np.array_equal(decode_jpeg(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_file_with_any_fault_is_left_to_pillow() -> None:
    data = jpeg(48, 64)
    assert decode_jpeg(data[:-200]) is None
    assert decode_jpeg(data[:-2] + bytes(8) + data[-2:]) is None
    assert decode_jpeg(b"GIF89a") is None


PLAIN = jpeg(48, 64)
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        *(jpeg(37, 51, subsampling=name, quality=30) for name in ("4:4:4", "4:2:2", "4:2:0")),
        jpeg(37, 51, "L"),
        jpeg(37, 51, restart_marker_blocks=3),
        jpeg(37, 51, comment=b"\xff\xd8\xff\xda", icc_profile=bytes(70_000), exif=b"Exif\0\0" + jpeg(8, 8)),
        jpeg(37, 51)[:2] + ADOBE + b"\x01" + jpeg(37, 51)[2:],
    ],
)
def test_a_baseline_jpeg_is_known_with_its_size(data: bytes) -> None:
    assert baseline_size(data) == (37, 51)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(48, 64, progressive=True),
        jpeg(48, 64, "CMYK"),
        jpeg(48, 64, keep_rgb=True),
        PLAIN[:2] + ADOBE + b"\0" + PLAIN[2:],
        PLAIN[:-1],
        PLAIN + bytes(8),
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9", 1),
        PLAIN.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1),
        PLAIN.replace(b"\0\x30\0\x40", b"\0\0\0\x40", 1),
        PLAIN[:20] + b"\0" + PLAIN[20:],
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\x02\xff\xd9",
        b"\xff\xd8\xff\xc0\0\x02\xff\xda\0\x02\xff\xd9",
        b"",
    ],
)
def test_any_other_jpeg_is_not(data: bytes) -> None:
    assert baseline_size(data) is None


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_damage_makes_no_other_size(place: int, value: int) -> None:
    damaged = bytearray(PLAIN)
    damaged[place] = value
    size = baseline_size(bytes(damaged))
    frame = PLAIN.index(b"\xff\xc0")
    assert size in (None, (48, 64)) or frame < place < frame + 9
