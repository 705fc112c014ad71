"""JPEGs that libjpeg-turbo decodes alone have Pillow's pixels, or are left to Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from media_samples import pattern, picture
from PIL import Image

from media import images
from media.errors import MediaError
from media.jpeg import decode_jpeg, plain_size
from media.reader import open_frames
from media.types import MediaOptions
from service.settings import Limits


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


@pytest.mark.parametrize("factors", [0x14, 0x41, 0x22])
def test_any_subsampling_is_shown_as_by_pillow(factors: int) -> None:
    data = bytearray(jpeg(64, 64, subsampling="4:2:0"))
    data[data.index(b"\xff\xc0") + 11] = factors  # of luma, which has four blocks for one of chroma all the same
    (pixels,) = open_frames(io.BytesIO(data), Limits())
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


TURNED = Image.Exif()
TURNED[0x0112] = 6


def shown(data: bytes, options: MediaOptions) -> object:
    """Return all that a reader says of a file."""
    try:
        reader = open_frames(io.BytesIO(data), Limits(), options)
        return [frame.tolist() for frame in reader], reader.info(), reader.preprocess, reader.details()
    except MediaError as error:
        return error.code, error.detail


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with other bytes, more, or fewer before its pixels."""
    at, count = int(rng.integers(2, data.index(b"\xff\xda") + 14)), int(rng.integers(0, 4))
    return data[:at] + rng.bytes(count) + data[at + int(rng.integers(0, 4)) :]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"comment": b"a"},
        {"dpi": (72, 72)},
        {"exif": TURNED},
    ],
    ids=str,
)
def test_whatever_stands_before_the_pixels_the_reader_says_what_pillow_would(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, data = np.random.default_rng(0), jpeg(24, 16, **options)
    files = [data, *(damaged(data, rng) for _ in range(100))]
    tasks = [(file, MediaOptions(size=size)) for file in files for size in (None, (12, 8), (4, 4))]
    with monkeypatch.context() as patched:
        patched.setattr(images, "plain_size", lambda head: None)
        patched.setattr(images, "decode_jpeg", lambda *arguments: None)
        expected = [shown(*task) for task in tasks]
    assert [shown(*task) for task in tasks] == expected


def test_pillow_does_not_see_a_plain_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(48, 64, comment=b"a")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    monkeypatch.setattr(images, "open_picture", None)
    (pixels,) = open_frames(io.BytesIO(data), Limits())
    assert np.array_equal(pixels, expected)


def test_only_the_size_of_a_plain_jpeg_is_known_without_pillow() -> None:
    profile = {"icc_profile": b"a" * 200}
    for options in ({}, {"mode": "L"}, {"progressive": True}):
        assert plain_size(jpeg(48, 64, **options)) == (48, 64)
    for options in ({"exif": TURNED}, profile, {"mode": "CMYK"}, {"keep_rgb": True}):
        assert plain_size(jpeg(48, 64, **options)) is None


def test_a_small_jpeg_over_a_limit_is_refused() -> None:
    with pytest.raises(MediaError) as caught:
        open_frames(io.BytesIO(jpeg(48, 64)), Limits(image_pixels=1000))
    assert (caught.value.code, caught.value.actual) == ("too-many-pixels", 48 * 64)


def test_a_file_of_another_size_than_was_checked_is_left_to_pillow() -> None:
    assert decode_jpeg(jpeg(48, 64), 64, 48) is None


@pytest.mark.parametrize("height", [601, 607])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_is_decoded_at_a_fraction_lands_on_the_same_pixels(orientation: int, height: int) -> None:
    """Also where its sides are no multiples of eight, whichever way it is turned."""
    y, x = np.mgrid[:height, :803]
    ramp = np.stack([255 * x / 802, 255 * y / (height - 1), 255 - 255 * x / 802], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "JPEG", quality=95, exif=exif)
    data = file.getvalue()
    whole = np.stack(list(open_frames(io.BytesIO(data), None)))[0]
    for side in (16, 24, 48, 96):
        small = next(iter(open_frames(io.BytesIO(data), None, MediaOptions(size=(side, side), fit="stretch"))))
        expected = Image.fromarray(whole).resize((side, side), Image.Resampling.LANCZOS)
        assert np.abs(small.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize(("marker", "bits", "words"), [(0xC1, 12, "12 bits a channel"), (0xF7, 8, "JPEG-LS")])
@pytest.mark.parametrize("filler", [b"", b"\xff\xff"])
def test_a_kind_that_is_not_read_is_no_damage(marker: int, bits: int, words: str, filler: bytes) -> None:
    data = picture(pattern(1, 16, 16)[0], "JPEG", exif=Image.Exif())
    at = data.index(b"\xff\xc0")
    changed = data[:at] + filler + bytes([0xFF, marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]
    with pytest.raises(MediaError, match=words) as caught:
        open_frames(io.BytesIO(changed), None)
    assert caught.value.code == "unsupported-container"
