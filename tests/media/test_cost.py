"""The cost of a file by its headers: what decoding it really takes, or more."""

from __future__ import annotations

import io

import numpy as np
import pytest
from media_samples import picture
from PIL import Image
from variants import MAKERS

from media.cost import decoded_pixels
from media.identify import IMAGE_TYPES, identify
from media.limits import MediaLimits
from media.types import MediaOptions

LIMITS = MediaLimits()
ALL = MediaOptions(animated=True)
PICTURES = [name for name in MAKERS if name.rpartition(".")[2] in ("gif", "png", "webp", "avif", "jpg", "tif", "bmp")]


def cost(data: bytes, options: MediaOptions = ALL, limits: MediaLimits = LIMITS) -> int:
    return decoded_pixels(data, identify(data, None), options, limits)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_costs_its_pixels_in_every_frame(name: str) -> None:
    data = MAKERS[name]()
    image = Image.open(io.BytesIO(data))
    pixels = image.width * image.height
    assert cost(data, MediaOptions()) == pixels
    shown = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1) - image.info.get("default_image", 0)
    assert shown * pixels <= cost(data) <= max(shown * pixels, LIMITS.animation_frames * pixels * (shown > 1))


def test_frames_that_are_not_wanted_cost_nothing() -> None:
    data = MAKERS["animated.gif"]()
    image = Image.open(io.BytesIO(data))
    assert cost(data, MediaOptions(animated=True, frames=2)) == 2 * image.width * image.height


@pytest.mark.parametrize("media_type", IMAGE_TYPES)
@pytest.mark.parametrize("rest", [b"", bytes(40), b"\xff" * 5000])
def test_what_cannot_be_understood_counts_as_large(media_type: str, rest: bytes) -> None:
    heads = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF89a"}
    data = heads.get(media_type, b"II*\0") + rest
    assert 0 <= decoded_pixels(data, media_type, ALL, LIMITS) <= LIMITS.decoded_pixels


def test_a_large_still_counts_once_whatever_is_asked_for() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 600, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "TIFF"):
        assert cost(picture(noise, kind)) == 700 * 600


def test_a_bomb_is_known_by_its_head() -> None:
    canvas = b"GIF89a" + (6000).to_bytes(2, "little") * 2 + b"\0\0\0"
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    assert cost(canvas + frame * 41 + b";") == 41 * 36_000_000
    assert cost(canvas + frame * 400_000 + b";") == LIMITS.decoded_pixels
    assert cost(canvas + b"x" * 2**20 + b";") == LIMITS.decoded_pixels
    assert cost(canvas + frame * 41, MediaOptions(animated=True, frames=9)) == 9 * 36_000_000
