"""Pictures of every mode, orientation and profile become upright sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import animation, pattern, picture, png_bomb, psnr, saved
from numpy.typing import NDArray
from PIL import Image, ImageCms

from media.errors import MediaError
from media.frame_reader import FrameReader
from media.reader import open_frames
from media.types import MediaOptions
from service.settings import Limits

LIMITS = Limits()
PHOTO = pattern(1, 48, 64)[0]


def read(data: bytes, options: MediaOptions | None = None, limits: Limits | None = LIMITS) -> NDArray[np.uint8]:
    return np.stack(list(open_frames(io.BytesIO(data), limits, options)))


def opened(data: bytes, options: MediaOptions | None = None) -> FrameReader:
    return open_frames(io.BytesIO(data), LIMITS, options)


def test_lossless_pictures_come_back_bit_for_bit() -> None:
    assert np.array_equal(read(picture(PHOTO, "PNG"))[0], PHOTO)
    assert np.array_equal(read(picture(PHOTO, "WEBP", lossless=True))[0], PHOTO)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_pictures_come_back_close(kind: str) -> None:
    assert psnr(read(picture(PHOTO, kind, quality=95))[0], PHOTO) > 33


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1"])
def test_bitmap_files_of_every_mode(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    assert np.array_equal(read(saved(image, "BMP"))[0], np.asarray(image.convert("RGB")))


def test_two_letters_are_no_bitmap_file() -> None:
    with pytest.raises(MediaError) as caught:
        read(b"BM" + bytes(200))
    assert caught.value.code == "unsupported-media-type"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_reduction_is_antialiased_by_every_route(kind: str) -> None:
    """A fine chessboard becomes even grey, through JPEG's own reduction as through resizing."""
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    made = read(picture(board, kind), MediaOptions(size=(48, 48))).astype(int)
    assert np.abs(made - 128).max() <= 6


def test_pictures_smaller_than_asked_are_enlarged() -> None:
    quarters = np.repeat(np.repeat(np.array([[0, 80], [160, 255]], np.uint8), 4, 0), 4, 1)
    made = read(picture(quarters, "PNG"), MediaOptions(size=(32, 32)))[0, [8, 8, 24, 24], [8, 24, 8, 24], 0]
    assert np.abs(made.astype(int) - [0, 80, 160, 255]).max() <= 8


def test_grey_becomes_three_equal_channels() -> None:
    grey = PHOTO[..., 0]
    for data in (picture(grey, "PNG"), picture(grey, "JPEG", quality=100)):
        frame = read(data)[0]
        assert np.array_equal(frame[..., 0], frame[..., 1])
        assert psnr(frame[..., 0], grey) > 45


def test_16_bit_grey_keeps_its_high_byte() -> None:
    deep = PHOTO[..., 1].astype(np.uint16) * 256 + 77
    assert np.array_equal(read(picture(deep, "PNG"))[0][..., 2], PHOTO[..., 1])


def test_bitmaps_and_palettes() -> None:
    bits = PHOTO[..., 0] > 128
    assert np.array_equal(read(picture(bits, "PNG"))[0][..., 0], bits * np.uint8(255))
    palette = Image.fromarray(PHOTO).quantize(64)
    assert np.array_equal(read(saved(palette, "PNG"))[0], np.asarray(palette.convert("RGB")))


def test_alpha_is_composited_on_white() -> None:
    alpha = np.zeros(PHOTO.shape[:2], np.uint8)
    alpha[:, :32] = 255
    frame = read(picture(np.dstack([PHOTO, alpha]), "PNG"))[0]
    assert np.array_equal(frame[:, :32], PHOTO[:, :32])
    assert (frame[:, 32:] == 255).all()
    grey_alpha = Image.fromarray(np.dstack([PHOTO[..., 0], alpha]), "LA")
    assert (read(saved(grey_alpha, "PNG"))[0][:, 32:] == 255).all()
    keyed = Image.fromarray(np.where(alpha[..., None] == 255, PHOTO, np.uint8(0)))
    assert (read(saved(keyed, "PNG", transparency=(0, 0, 0)))[0][:, 32:] == 255).all()


def test_cmyk_jpeg_becomes_rgb() -> None:
    frame = read(saved(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG", quality=95))[0]
    red, green, blue = frame[16, 16]
    assert red < 60
    assert min(green, blue) > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(PHOTO)
    # Store the picture so that undoing the orientation gives it back.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "WEBP"):
        reader = opened(saved(stored, kind, exif=exif, quality=95))
        (frame,) = reader
        assert psnr(frame, PHOTO) > 33
        assert (reader.info().height, reader.info().width) == PHOTO.shape[:2]
        sized = opened(saved(stored, kind, exif=exif, quality=95), MediaOptions(size=(12, 16)))
        assert psnr(next(iter(sized)), np.asarray(upright.resize((16, 12), Image.Resampling.LANCZOS))) > 30


def test_an_embedded_profile_is_applied_and_a_broken_one_ignored() -> None:
    # A profile whose red and blue are swapped makes the conversion visible.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    srgb = read(picture(PHOTO, "PNG", icc_profile=lab.tobytes()))[0]
    assert np.abs(srgb.astype(int) - PHOTO).max() <= 2
    assert np.array_equal(read(picture(PHOTO, "PNG", icc_profile=b"not a profile" * 20))[0], PHOTO)
    swapped = _swapped_primaries(lab.tobytes())
    frame = read(picture(PHOTO, "PNG", icc_profile=swapped))[0]
    assert psnr(frame, PHOTO[..., ::-1]) > 30


def test_a_large_jpeg_shrinks_to_the_right_picture() -> None:
    large = pattern(1, 1200, 1600)[0]
    frame = read(picture(large, "JPEG", quality=95), MediaOptions(size=(96, 128)))[0]
    expected = Image.fromarray(large).resize((128, 96), Image.Resampling.LANCZOS)
    assert psnr(frame, np.asarray(expected)) > 34


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_counts_as_upright() -> None:
    data = picture(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read(data)[0].shape == PHOTO.shape


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_are_stills_unless_asked_for(kind: str) -> None:
    clip = pattern(5, 24, 32)
    data = animation(clip, kind, milliseconds=50)
    still = opened(data)
    assert not still.is_video
    assert len(list(still)) == 1
    moving = opened(data, MediaOptions(animated=True))
    frames = np.stack(list(moving))
    assert moving.is_video
    assert frames.shape == clip.shape
    if kind == "GIF":
        assert min(map(psnr, frames, clip)) > 25
    else:
        assert np.array_equal(frames, clip)
    info = moving.info()
    assert info.fps == pytest.approx(20)
    assert info.sampled_pts == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    middle = opened(data, MediaOptions(animated=True, start_s=0.09, frames=2))
    assert np.array_equal(np.stack(list(middle)), frames[2:4])


def test_a_single_frame_is_a_still_even_if_an_animation_was_asked_for() -> None:
    reader = opened(picture(PHOTO, "GIF"), MediaOptions(animated=True))
    assert not reader.is_video
    assert reader.info().fps is None


def test_pixel_limits_hold_before_anything_is_decoded() -> None:
    for data, limits in (
        (png_bomb(7000), LIMITS),
        (picture(np.zeros((1, 20_000, 3), np.uint8), "PNG"), LIMITS),
        (picture(PHOTO, "WEBP"), Limits(image_pixels=100)),
        (animation(pattern(2, 40, 40), "GIF"), Limits(image_side=39)),
    ):
        with pytest.raises(MediaError) as caught:
            read(data, limits=limits)
        assert caught.value.code == "too-many-pixels"


def test_the_limit_of_trusted_pictures_is_stated_as_it_is() -> None:
    small = picture(PHOTO, "GIF")
    with pytest.raises(MediaError) as caught:
        open_frames(io.BytesIO(small[:6] + struct.pack("<2H", 20_000, 9_000) + small[10:]), None)
    assert (caught.value.code, caught.value.limit) == ("too-many-pixels", 178_956_970)


def test_animation_limits() -> None:
    data = animation(pattern(6, 16, 16), "GIF")
    cases = [
        (Limits(animation_frames=5), "too-many-frames"),
        (Limits(decoded_pixels=6 * 256 - 1), "decode-budget"),
        (Limits(kept_frames=5), "too-many-frames"),
        (Limits(clip_pixels=6 * 256 - 1), "too-many-pixels"),
    ]
    for limits, slug in cases:
        with pytest.raises(MediaError) as caught:
            read(data, MediaOptions(animated=True), limits)
        assert caught.value.code == slug
        assert read(data, MediaOptions(animated=False), limits).shape == (1, 16, 16, 3)


def _swapped_primaries(profile: bytes) -> bytes:
    """The profile with the tags of its red and blue primaries renamed into each other."""
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def test_details_say_how_a_picture_is_stored() -> None:
    opaque, clear = opened(picture(PHOTO, "PNG")), opened(saved(Image.new("RGBA", (8, 6)), "PNG"))
    assert "transparency" not in opaque.details().colour
    assert "transparency shown on white" in clear.details().colour
    assert not opaque.details().is_animated
    assert opened(animation(np.stack([PHOTO, 255 - PHOTO]), "GIF")).details().is_animated
