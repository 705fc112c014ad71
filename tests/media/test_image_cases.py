"""Pictures that decoders and browsers used to disagree about: each is shown as browsers show it."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from media_samples import animation, pattern, picture, saved
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from media.errors import MediaError
from media.frame_reader import FrameReader
from media.reader import open_frames
from media.types import MediaOptions
from service.settings import Limits

LIMITS = Limits()
PHOTO = pattern(1, 48, 64)[0]
ANIMATED = MediaOptions(animated=True)
# Greys of 128: depth, colour type, the bytes of one pixel, and chunks.
GREY = {
    "L": (8, 0, b"\x80", b""),
    "L with a transparent colour": (8, 0, b"\x80", struct.pack(">I4sHI", 2, b"tRNS", 3, zlib.crc32(b"tRNS\0\3"))),
    "LA": (8, 4, b"\x80\xff", b""),
    "I;16": (16, 0, b"\x80\x80", b""),
}


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
        # The two greys differ only in their low bytes, as the last two colours.
        (16, 0, struct.pack(">HH", 0xAA01, 0xAA00) * 16, struct.pack(">H", 0xAA00), 170),
        (8, 2, bytes([170, 170, 170, 3, 4, 5] * 16), struct.pack(">HHH", 3, 4, 5), 170),
        (
            16,
            2,
            struct.pack(">6H", *[0xAA00] * 3, 0x300, 0x400, 0x500) * 16,
            struct.pack(">HHH", 0x300, 0x400, 0x500),
            170,
        ),
        (16, 2, struct.pack(">6H", *[0xAA01] * 3, *[0xAA00] * 3) * 16, struct.pack(">HHH", *[0xAA00] * 3), 170),
    ],
)
def test_the_transparent_colour_of_every_depth_is_white(
    depth: int, colour: int, row: bytes, key: bytes, other: int
) -> None:
    frame = read(png(32, 8, depth, colour, row, chunk(b"tRNS", key)))[0]
    assert (frame[:, ::2] == other).all()
    assert (frame[:, 1::2] == 255).all()


@pytest.mark.parametrize("kind", [*GREY, "P"])
def test_a_profile_is_applied_whatever_the_mode(kind: str) -> None:
    """A linear value of 128 is 188 in sRGB."""
    if kind == "P":
        linear = Image.new("RGB", (16, 16), (128, 128, 128)).quantize(4)
        frame = read(saved(linear, "PNG", icc_profile=profile(b"RGB ")))[0]
    else:
        depth, colour, sample, extra = GREY[kind]
        embedded = chunk(b"iCCP", b"grey\0\0" + zlib.compress(profile(b"GRAY")))
        frame = read(png(16, 8, depth, colour, sample * 16, embedded + extra))[0]
    assert np.abs(frame.astype(int) - 188).max() <= 1


def test_a_profile_is_applied_to_the_colours_before_they_are_composited() -> None:
    half = Image.new("RGBA", (16, 16), (128, 128, 128, 128))
    frame = read(saved(half, "PNG", icc_profile=profile(b"RGB ")))[0]
    assert np.abs(frame.astype(int) - (188 + 255) / 2).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_turned_like_stills(kind: str, orientation: int) -> None:
    clip = pattern(3, 24, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    first, *rest = [Image.fromarray(frame) for frame in clip]
    data = saved(first, kind, save_all=True, append_images=rest, duration=50, lossless=True, exif=exif)
    moving = opened(data, ANIMATED)
    frames = np.stack(list(moving))
    assert np.array_equal(frames[0], read(data)[0])
    assert (moving.info().height, moving.info().width) == frames.shape[1:3]
    assert frames.shape == ((3, 32, 24, 3) if orientation > 4 else (3, 24, 32, 3))
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("stated", [None, 1])
def test_an_orientation_outside_of_exif_turns_nothing(kind: str, stated: int | None) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x010F] = "camera"
    if stated is not None:
        exif[0x0112] = stated
    extra = {"tiffinfo": {700: xmp}} if kind == "TIFF" else {"xmp": xmp, "exif": exif}
    reader = opened(saved(Image.fromarray(PHOTO), kind, **extra))
    assert next(iter(reader)).shape == PHOTO.shape
    assert reader.details().orientation == "upright"


def test_a_text_of_a_png_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(body):8}\n{body.hex()}\n", zip=True)
    assert np.array_equal(read(saved(Image.fromarray(PHOTO), "PNG", pnginfo=text))[0], PHOTO)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
def test_the_hidden_picture_of_an_animated_png_is_no_frame(mode: str) -> None:
    hidden, *shown = [Image.new("RGB", (16, 16), colour) for colour in ("grey", "red", "lime", "blue")]
    if mode == "P":
        both = Image.new("RGB", (64, 16))
        for index, part in enumerate((hidden, *shown)):
            both.paste(part, (16 * index, 0))
        palette = both.quantize(4)
        hidden, *shown = [palette.crop((16 * index, 0, 16 * index + 16, 16)) for index in range(4)]
    hidden, *shown = [part.convert(mode) for part in (hidden, *shown)]
    data = saved(hidden, "PNG", save_all=True, append_images=shown, default_image=True, duration=200)
    moving = opened(data, ANIMATED)
    expected = np.stack([np.asarray(part.convert("RGB")) for part in shown])
    assert np.array_equal(np.stack(list(moving)), expected)
    assert moving.info().frames_in == 3
    assert moving.info().fps == pytest.approx(5)
    assert np.array_equal(read(data)[0], np.asarray(hidden.convert("RGB")))
    assert np.array_equal(read(data, MediaOptions(animated=True, start_s=0.2, frames=1)), expected[1:2])


def test_a_single_frame_behind_a_hidden_picture_is_a_clip() -> None:
    hidden, shown = Image.new("RGB", (16, 16), "grey"), Image.new("RGB", (16, 16), "red")
    data = saved(hidden, "PNG", save_all=True, append_images=[shown], default_image=True, duration=200)
    moving = opened(data, ANIMATED)
    assert moving.is_video
    assert (np.stack(list(moving)) == np.array([255, 0, 0])).all()
    assert moving.info().frames_in == 1


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "L"), ("PNG", "LA"), ("PNG", "I;16"), ("JPEG", "L")])
def test_greys_may_have_a_profile_of_colours(kind: str, mode: str) -> None:
    grey = {
        "L": Image.new("L", (16, 16), 128),
        "LA": Image.new("LA", (16, 16), (128, 255)),
        "I;16": Image.fromarray(np.full((16, 16), 0x8080, np.uint16)),
    }[mode]
    frame = read(saved(grey, kind, icc_profile=profile(b"RGB ")))[0]
    assert np.abs(frame.astype(int) - 188).max() <= 1


@pytest.mark.parametrize(("mode", "space"), [("RGB", b"GRAY"), ("CMYK", b"RGB ")])
def test_a_profile_of_another_space_is_ignored(mode: str, space: bytes) -> None:
    middle = Image.new("RGB", (16, 16), (128, 128, 128)).convert(mode)
    frame = read(saved(middle, "JPEG", quality=95, icc_profile=profile(space)))[0]
    assert np.abs(frame.astype(int) - 128).max() <= 1


def test_the_hidden_picture_does_not_shine_through() -> None:
    hidden, shown = Image.new("RGBA", (16, 16), "blue"), Image.new("RGBA", (16, 16))
    last = Image.new("RGBA", (16, 16), "red")
    data = saved(hidden, "PNG", save_all=True, append_images=[shown, last], default_image=True, duration=200, blend=1)
    frames = read(data, ANIMATED)
    assert (frames[0] == 255).all()
    assert (frames[1] == (255, 0, 0)).all()


@pytest.mark.parametrize("options", [None, ANIMATED])
@pytest.mark.parametrize("whole", [True, False])
def test_a_jpeg_with_a_second_picture_is_one_picture(options: MediaOptions | None, whole: bool) -> None:
    first, second = Image.new("RGB", (128, 96), "red"), Image.new("RGB", (64, 48), "blue")
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    reader = opened(data if whole else data[: data.rindex(b"\xff\xd8")], options)
    (frame,) = reader
    assert not reader.is_video
    assert frame.shape == (96, 128, 3)
    assert np.abs(frame.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_is_shown(mode: str, progressive: bool) -> None:
    data = saved(Image.fromarray(PHOTO).convert(mode), "JPEG", quality=95, progressive=progressive)
    for options in (None, ANIMATED, MediaOptions(size=(24, 32))):
        for missing in (1, 2):
            assert np.array_equal(read(data[:-missing], options), read(data, options))


def test_a_jpeg_may_lack_its_last_rows_but_no_more() -> None:
    large = pattern(1, 640, 64)[0]
    data = saved(Image.fromarray(large), "JPEG", quality=95)
    whole, cut = read(data)[0], read(data[:-100])[0]
    assert np.array_equal(cut[:600], whole[:600])
    assert not np.array_equal(cut, whole)
    solid = saved(Image.new("RGB", (64, 640), (90, 10, 200)), "JPEG", optimize=True)
    start = solid.index(b"\xff\xda")
    start += 2 + int.from_bytes(solid[start + 2 : start + 4], "big")
    for damaged in (
        data[: len(data) * 9 // 10],
        data[: len(data) // 2],
        solid[:start],
        solid[: (start + len(solid)) // 2],
    ):
        with pytest.raises(MediaError, match="cut off"):
            read(damaged)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_later_scans_are_missing_is_refused(mode: str) -> None:
    """Rows of the present scan may be there to the last one, but coarse."""
    random = np.random.default_rng(0).integers(-20, 20, (320, 320, 3))
    noise = Image.fromarray((pattern(1, 320, 320)[0] + random).clip(0, 255).astype(np.uint8)).convert(mode)
    data = saved(noise, "JPEG", quality=90, progressive=True)
    whole = read(data)[0]
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    for end in scans[1:]:
        for missing in (0, 2, 40):
            with pytest.raises(MediaError, match="cut off"):
                read(data[: end - missing])
    if mode != "CMYK":  # whose last scan, of black, is hardly anything here
        assert np.array_equal(read(data[: len(data) - 40])[0][:280], whole[:280])


@pytest.mark.parametrize("last", [0, 62])
def test_a_baseline_jpeg_need_not_say_which_coefficients_it_holds(last: int) -> None:
    data = bytearray(saved(Image.fromarray(pattern(1, 640, 640)[0]), "JPEG", quality=95))
    whole = read(bytes(data))[0]
    scan = data.index(b"\xff\xda")
    assert data[scan + 12] == 63
    data[scan + 12] = last
    assert np.array_equal(read(bytes(data[:-30]))[0][:560], whole[:560])


def profile(space: bytes) -> bytes:
    """A colour profile of gamma 1.0 for grey or RGB pixels."""
    curve = b"curv" + bytes(8)
    xyz = {
        b"wtpt": (0.9642, 1, 0.8249),
        b"rXYZ": (0.4361, 0.2225, 0.0139),
        b"gXYZ": (0.3851, 0.7169, 0.0971),
        b"bXYZ": (0.1431, 0.0606, 0.7139),
    }
    names = (b"wtpt",) if space == b"GRAY" else tuple(xyz)
    tags = [(name, b"XYZ " + bytes(4) + struct.pack(">3i", *[round(v * 65536) for v in xyz[name]])) for name in names]
    tags += [(name, curve) for name in ((b"kTRC",) if space == b"GRAY" else (b"rTRC", b"gTRC", b"bTRC"))]
    place, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12x4s28x", place + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    white = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head + white + bytes(48) + struct.pack(">I", len(tags)) + table + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of equal rows; `extra` are chunks to stand before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("place", [1, 100, 5000])
def test_a_png_whose_pixels_are_damaged_is_refused(place: int, animated: bool) -> None:
    data = bytearray(picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "PNG"))
    data[data.index(b"IDAT") + 4 + place] ^= 0xFF
    with pytest.raises(MediaError) as caught:
        read(bytes(data), MediaOptions(animated=animated))
    assert caught.value.code == "corrupt-media"


@pytest.mark.parametrize("width", range(40, 56))
def test_a_webp_need_not_know_its_size(width: int) -> None:
    data = saved(Image.fromarray(PHOTO[:, :width]), "WEBP", lossless=True)
    (size,) = struct.unpack_from("<I", data, 16)
    for stated in (0, 30, len(data) + 50):
        assert np.array_equal(read(data[:4] + struct.pack("<I", stated) + data[8:])[0], PHOTO[:, :width])
    if size % 2:  # what fills it up is not part of the picture
        assert np.array_equal(read(data[:-1])[0], PHOTO[:, :width])
    for missing in (1, 2, 100):
        with pytest.raises(MediaError, match="cut off"):
            read(data[: -missing - size % 2])
