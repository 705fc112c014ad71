"""Animated pictures: frames are counted by their blocks, and decoded no further than the last that is kept."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from media_samples import animation, pattern
from PIL import Image, ImageSequence
from variants import MAKERS

from media.animation import index_animation
from media.errors import MediaError
from media.identify import identify
from media.limits import MediaLimits
from media.picture_file import open_picture
from media.reader import open_frames
from media.types import MediaOptions

ANIMATED = MediaOptions(animated=True)
PICTURES = [name for name in MAKERS if name.rpartition(".")[2] in ("gif", "png", "webp", "avif", "jpg", "tif", "bmp")]


def gif(width: int, height: int, frames: int, box: tuple[int, int, int, int] = (0, 0, 1, 1)) -> bytes:
    """A GIF whose frames change the pixels of `box` (left, top, width, height) alone, a few bytes for each."""
    frame = b"!\xf9\x04\x08\x01\0\0\0," + struct.pack("<4H", *box) + b"\0\x02\x02\x44\x01\0"
    head = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + head + frame * frames + b";"


def refusal(data: bytes, options: MediaOptions = ANIMATED, limits: MediaLimits | None = None) -> MediaError:
    with pytest.raises(MediaError) as caught:
        list(open_frames(io.BytesIO(data), limits or MediaLimits(), options))
    return caught.value


@pytest.mark.parametrize("name", PICTURES)
def test_blocks_tell_what_decoding_would(name: str) -> None:
    data = MAKERS[name]()
    media_type, file = identify(data, None), io.BytesIO(data)
    durations, canvas = index_animation(open_picture(file, media_type, None), file, media_type)
    image = Image.open(io.BytesIO(data))
    animated = media_type not in ("image/jpeg", "image/tiff", "image/bmp")
    stated = []
    for page in ImageSequence.Iterator(image) if animated else []:
        page.load()
        stated.append(float(page.info.get("duration") or 0))
    assert durations == (stated if len(stated) > 1 else [0.0])
    assert canvas == (image.height, image.width)


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_an_avif_has_the_rate_that_it_states(rate: int) -> None:
    """Pillow rounds times to milliseconds, 30 frames a second to 30.3."""
    data = bytearray(animation(pattern(6, 32, 40), "AVIF"))
    header, table = data.index(b"mdhd") + 4, data.index(b"stts") + 4
    assert struct.unpack_from(">I", data, header + 20) == (1000,)
    assert struct.unpack_from(">2I", data, table + 8) == (6, 100)
    struct.pack_into(">I", data, header + 20, 100 * rate)
    reader = open_frames(io.BytesIO(data), MediaLimits(), ANIMATED)
    assert len(list(reader)) == 6
    assert reader.info().fps == pytest.approx(rate, rel=1e-4)
    assert reader.info().sampled_pts == pytest.approx(np.arange(6) / rate, abs=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_damage_behind_the_last_kept_frame_is_never_reached(kind: str) -> None:
    clip = pattern(6, 32, 40)
    data = bytearray(animation(clip, kind))
    whole = np.stack(list(open_frames(io.BytesIO(data), None, ANIMATED)))
    data[-30:-20] = bytes(byte ^ 0x55 for byte in data[-30:-20])
    reader = open_frames(io.BytesIO(data), MediaLimits(), MediaOptions(animated=True, frames=3))
    assert np.array_equal(np.stack(list(reader)), whole[:3])
    assert reader.info().frames_in == 6


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("part", [0.4, 0.98])
def test_a_file_that_was_cut_off_is_refused_whatever_is_kept(kind: str, part: float) -> None:
    data = animation(pattern(6, 32, 40), kind)
    assert refusal(data[: int(len(data) * part)], MediaOptions(animated=True, frames=1)).code == "corrupt-media"


def test_many_frames_are_fine_if_few_are_decoded() -> None:
    data = gif(8, 8, 1000)
    frames = MediaOptions(animated=True, frames=9)
    assert len(list(open_frames(io.BytesIO(data), MediaLimits(), frames))) == 9
    problem = refusal(data, MediaOptions(animated=True, frames=9, sampling="uniform"))
    assert (problem.code, problem.actual) == ("too-many-frames", 1000)


def test_a_canvas_has_its_share_of_what_one_file_may_decode() -> None:
    problem = refusal(gif(6000, 6000, 41), MediaOptions(animated=True, size=(64, 64), frames=9))
    assert (problem.code, problem.limit) == ("too-many-pixels", MediaLimits().animation_pixels)
    limits = MediaLimits()
    assert limits.animation_pixels * limits.animation_frames <= limits.decoded_pixels
    assert len(list(open_frames(io.BytesIO(gif(6000, 6000, 41)), limits, MediaOptions(size=(8, 8))))) == 1


@pytest.mark.parametrize("later", [False, True])
def test_frames_larger_than_the_canvas_count_at_their_size(later: bool) -> None:
    large = gif(16, 16, 3, (0, 0, 5001, 5001))
    data = gif(16, 16, 1)[:-1] + large[large.index(b"!") :] if later else large
    problem = refusal(data)
    assert (problem.code, problem.actual) == ("too-many-pixels", 5001 * 5001)


@pytest.mark.parametrize(("kind", "milliseconds"), [("GIF", 100), ("PNG", 100), ("WEBP", 100), ("PNG", 30)])
def test_windows_begin_and_end_where_frames_do(kind: str, milliseconds: int) -> None:
    """Sums of tenths in floating point miss the whole numbers that callers name."""
    clip = pattern(24, 16, 16)
    data = animation(clip, kind, milliseconds)
    whole = np.stack(list(open_frames(io.BytesIO(data), None, ANIMATED)))
    for first in range(1, 24):
        seconds = float(f"{first * milliseconds / 1000:.6g}")
        late = open_frames(io.BytesIO(data), None, MediaOptions(animated=True, start_s=seconds))
        early = open_frames(io.BytesIO(data), None, MediaOptions(animated=True, end_s=seconds))
        assert np.array_equal(np.stack(list(late)), whole[first:])
        assert np.array_equal(np.stack(list(early)), whole[:first])
    assert open_frames(io.BytesIO(data), None, ANIMATED).info().duration_s == 24 * milliseconds / 1000
