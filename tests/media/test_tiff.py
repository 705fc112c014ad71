"""TIFF pictures: byte orders, compressions, modes, orientations; and the other things that the format holds."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from media_samples import pattern, picture, psnr, saved
from numpy.typing import NDArray
from PIL import Image

from media.cost import decoded_pixels
from media.errors import MediaError
from media.reader import open_frames
from media.types import MediaOptions
from service.settings import Limits

LIMITS = Limits()
PHOTO = pattern(1, 48, 64)[0]
GREY = PHOTO[..., 0]


def read(data: bytes, **options: Any) -> NDArray[np.uint8]:
    return np.stack(list(open_frames(io.BytesIO(data), LIMITS, MediaOptions(**options))))


def tiff(pixels: NDArray[Any], photometric: int, order: str = "<", extra: tuple[tuple[int, int], ...] = ()) -> bytes:
    """Write an uncompressed file by hand, as the specification says: one strip, tags in ascending order."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits = 8 * pixels.dtype.itemsize
    tags = dict(extra) | {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: samples, 278: height}
    tags |= {273: 8, 279: len(data)}
    entries = b""
    for tag, value in sorted(tags.items()):
        short = value < 65536 and tag not in (273, 279)
        entries += struct.pack(order + ("HHIHxx" if short else "HHII"), tag, 3 if short else 4, 1, value)
    start = 8 + len(data) + len(data) % 2
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    return head + data.ljust(start - 8, b"\0") + struct.pack(order + "H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_lossless_files_come_back_bit_for_bit(compression: str) -> None:
    assert np.array_equal(read(picture(PHOTO, "TIFF", compression=compression))[0], PHOTO)


def test_a_jpeg_in_a_tiff_comes_back_close() -> None:
    assert psnr(read(picture(PHOTO, "TIFF", compression="jpeg", quality=95))[0], PHOTO) > 33


@pytest.mark.parametrize("order", ["<", ">"])
def test_samples_of_either_byte_order_and_depth(order: str) -> None:
    grey = GREY[..., None].repeat(3, -1)
    assert np.array_equal(read(tiff(PHOTO, 2, order))[0], PHOTO)
    assert np.array_equal(read(tiff(GREY, 1, order))[0], grey)
    assert np.array_equal(read(tiff(255 - GREY, 0, order))[0], grey)  # white is 0
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(read(tiff(deep, 1, order))[0], grey)
    colours = PHOTO.astype(np.uint16) * 257
    assert np.array_equal(read(tiff(colours, 2, order))[0], PHOTO)


def test_greys_of_twelve_bits_reach_white() -> None:
    codes = np.array([0, 1024, 2048, 4095], np.uint16)
    packed = bytes.fromhex("".join(f"{code:03x}" for code in codes.tolist()))
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 14) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert read(data)[0, 0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_every_mode_shows_as_pillow_converts_it(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    assert np.array_equal(read(saved(image, "TIFF"))[0], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("kind", "weight"), [(2, 1.0), (1, 0.5)])  # straight, premultiplied
def test_alpha_stands_on_white(kind: int, weight: float) -> None:
    colours = np.full((8, 8, 4), 128, np.uint8)
    colours[..., :3] = [200 * weight, 100 * weight, 0]
    shown = read(tiff(colours, 2, extra=((338, kind),)))[0, 0, 0].astype(int)
    assert np.abs(shown - [227, 177, 127]).max() <= 2


def test_premultiplied_greys_stand_on_white() -> None:
    stored = np.broadcast_to(np.array([50, 100], np.uint8), (8, 8, 2))
    assert (read(tiff(stored, 1, extra=((338, 1),))) == 50 + 155).all()


# Rows and columns of the stored picture, as the specification names them.
TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_pictures_are_turned_once(orientation: int, compression: str) -> None:
    data = picture(PHOTO, "TIFF", tiffinfo={274: orientation}, compression=compression)
    expected = TURNS[orientation](PHOTO)
    assert np.array_equal(read(data)[0], expected)
    reader = open_frames(io.BytesIO(data), LIMITS, MediaOptions(size=(32, 32)))
    assert next(iter(reader)).shape == (32, 32, 3)
    info = reader.info()
    assert (info.media_type, info.height, info.width) == ("image/tiff", *expected.shape[:2])


@pytest.mark.parametrize("animated", [False, True])
def test_the_first_page_is_shown(animated: bool) -> None:
    pages = saved(Image.fromarray(PHOTO), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert np.array_equal(read(pages, animated=animated), PHOTO[None])


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (tiff(PHOTO, 2, extra=((254, 1),)), "unsupported-container", "raw picture"),
        (tiff(GREY.astype(np.float32), 1, extra=((339, 3),)), "unsupported-container", "16 bits"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(200), "unsupported-media-type", "raw picture"),
        (tiff(PHOTO, 2)[:-40], "corrupt-media", "damaged"),
        (picture(PHOTO, "TIFF", compression="tiff_lzw")[:600], "corrupt-media", "damaged"),
        (b"II*\0" + bytes(200), "corrupt-media", "damaged"),
        (tiff(np.zeros((1, 1, 3), np.uint8), 2, extra=()), "", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_to_look_at_is_refused(data: bytes, code: str, words: str) -> None:
    if not code:
        assert read(data).shape == (1, 1, 1, 3)
        return
    with pytest.raises(MediaError, match=words) as caught:
        read(data)
    assert caught.value.code == code


def test_tiles_far_larger_than_their_picture_are_refused_before_they_take_memory() -> None:
    data = tiff(PHOTO, 2, extra=((322, 16_384), (323, 16_384)))
    for limits in (LIMITS, None):
        with pytest.raises(MediaError, match="too-many-pixels"):
            open_frames(io.BytesIO(data), limits)
    small = tiff(PHOTO, 2, extra=((322, 512), (323, 512)))
    assert np.array_equal(read(small)[0], PHOTO)
    sizes = [decoded_pixels(file, "image/tiff", MediaOptions(), LIMITS) for file in (data, small, tiff(PHOTO, 2))]
    assert sizes == [16_384**2, 512**2, 48 * 64]


def test_a_size_over_the_limit_is_refused_by_its_header() -> None:
    data = bytearray(tiff(PHOTO, 2))
    width = data.rindex(struct.pack("<HHI", 256, 3, 1)) + 8
    data[width : width + 2] = struct.pack("<H", 65_000)
    with pytest.raises(MediaError) as caught:
        read(bytes(data))
    assert caught.value.code == "too-many-pixels"
