"""JPEGs that libjpeg-turbo decodes alone have Pillow's pixels, or are left to Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media.jpeg import decode_jpeg


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
    assert np.array_equal(decode_jpeg(data, *size), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_file_with_any_fault_is_left_to_pillow() -> None:
    data = jpeg(48, 64)
    assert decode_jpeg(data, 48, 64) is not None
    for faulty in (data[:-200], data[:-2] + bytes(8) + data[-2:], b"GIF89a"):
        assert decode_jpeg(faulty, 48, 64) is None


def test_a_file_of_another_size_than_was_checked_is_left_to_pillow() -> None:
    assert decode_jpeg(jpeg(48, 64), 64, 48) is None
