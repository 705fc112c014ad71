"""Written files read back: frame counts, sizes, rates and, within the codec's loss, the pixels."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_samples import pattern, psnr
from PIL import Image

from media.identify import IMAGE_OUTPUTS, VIDEO_OUTPUTS
from media.reader import open_frames
from media.types import MediaOptions
from media.write import VideoWriter, encode_image, encode_video

READ_ALL = MediaOptions(animated=True)


def even(side: int) -> int:
    return side + side % 2


@pytest.mark.parametrize("media_type", VIDEO_OUTPUTS)
@given(frames=st.integers(1, 9), height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=12)
def test_clips_keep_their_frames_and_their_documented_size(
    media_type: str, frames: int, height: int, width: int
) -> None:
    clip = pattern(frames, height, width)
    pixels = np.stack(list(open_frames(io.BytesIO(encode_video(clip, media_type, 25)), None, READ_ALL)))
    size = (even(height), even(width)) if media_type == "video/mp4" else (height, width)
    assert pixels.shape == (frames, *size, 3)


@pytest.mark.parametrize(("media_type", "decibels"), [("video/mp4", 33), ("video/webm", 32), ("image/gif", 25)])
def test_clips_look_like_what_was_written(media_type: str, decibels: float) -> None:
    # Chroma at half resolution and 256 colours set these bounds: the pattern is far more colourful than a film.
    clip = pattern(9, 95, 129)
    reader = open_frames(io.BytesIO(encode_video(clip, media_type, 12.5)), None, READ_ALL)
    pixels = np.stack(list(reader))
    assert psnr(pixels[:, :95, :129], clip) > decibels
    assert reader.info().fps == pytest.approx(12.5)
    if media_type == "video/mp4":
        assert np.abs(pixels[:, 95].astype(int) - pixels[:, 94]).mean() < 4  # the edge, repeated


@pytest.mark.parametrize("media_type", VIDEO_OUTPUTS)
@pytest.mark.parametrize("colour", [(220, 30, 40), (30, 200, 60), (20, 40, 230), (255, 255, 255), (0, 0, 0)])
def test_colours_survive(media_type: str, colour: tuple[int, int, int]) -> None:
    clip = np.broadcast_to(np.array(colour, np.uint8), (2, 32, 32, 3))
    (first, _) = open_frames(io.BytesIO(encode_video(clip, media_type, 10)), None, READ_ALL)
    assert np.abs(first.astype(int) - colour).max() <= 6


def test_an_mp4_is_fragmented_and_goes_to_a_pipe() -> None:
    data = encode_video(pattern(3, 32, 32), "video/mp4", 24)
    assert 0 < data.index(b"moov") < data.index(b"moof") < data.index(b"mdat")
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        writer = VideoWriter(pipe, "video/mp4", 24, 32, 32)
        writer.write(pattern(3, 32, 32))
        writer.close()
    with os.fdopen(reading, "rb") as pipe:
        assert np.stack(list(open_frames(io.BytesIO(pipe.read()), None))).shape == (3, 32, 32, 3)


@pytest.mark.parametrize("media_type", VIDEO_OUTPUTS)
def test_frames_may_come_one_by_one_or_in_chunks(media_type: str) -> None:
    clip, file = pattern(7, 32, 48), io.BytesIO()
    with closing(VideoWriter(file, media_type, 24, 32, 48)) as writer:
        writer.write(clip[0])
        writer.write(clip[1:4])
        writer.write(clip[4:])
    assert file.getvalue() == encode_video(iter(clip), media_type, 24)


ENCODE_IN_A_PROCESS = """
import hashlib
from media_samples import pattern
from media.identify import VIDEO_OUTPUTS
from media.write import encode_video
for media_type in VIDEO_OUTPUTS:
    for height, width in ((64, 96), (96, 130), (256, 64)):
        clip = encode_video(pattern(7, height, width), media_type, 24)
        print(media_type, height, width, hashlib.sha256(clip).hexdigest())
"""


def test_bytes_depend_on_nothing_but_the_frames() -> None:
    # glibc fills fresh memory with the byte named here: a codec that reads what it never wrote gives itself away.
    def encoded(fill: int) -> str:
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = {**os.environ, "MALLOC_PERTURB_": str(fill), "PYTHONPATH": paths}
        command = [sys.executable, "-c", ENCODE_IN_A_PROCESS]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    first = encoded(1)
    assert len(first.splitlines()) == 3 * len(VIDEO_OUTPUTS)
    assert encoded(128) == first
    assert encoded(200) == first


def test_a_gif_with_few_colours_is_exact() -> None:
    clip = (pattern(4, 40, 40) // 128 * 255).astype(np.uint8)
    assert np.array_equal(
        np.stack(list(open_frames(io.BytesIO(encode_video(clip, "image/gif", 10)), None, READ_ALL))), clip
    )


@pytest.mark.parametrize("media_type", IMAGE_OUTPUTS)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_pictures_keep_their_size(media_type: str, height: int, width: int) -> None:
    photo = pattern(1, height, width)
    with Image.open(io.BytesIO(encode_image(photo, media_type))) as image:
        assert image.size == (width, height)
        assert image.get_format_mimetype() == media_type
        if media_type == "image/png":
            assert np.array_equal(np.asarray(image), photo[0])


def test_quality_is_worth_its_bytes() -> None:
    photo = pattern(1, 96, 96)[0]
    for media_type in ("image/jpeg", "image/webp"):
        low, default = encode_image(photo, media_type, 20), encode_image(photo, media_type)
        assert len(low) < len(default)
        (frame,) = open_frames(io.BytesIO(default), None)
        assert psnr(frame, photo) > 33


@pytest.mark.parametrize(
    ("media_type", "fps", "shape"),
    [
        ("video/mp4", 0.0, (2, 8, 8, 3)),
        ("video/mp4", -1.0, (2, 8, 8, 3)),
        ("video/mp4", 1e-9, (2, 8, 8, 3)),
        ("video/webm", float("nan"), (2, 8, 8, 3)),
        ("video/webm", 1e9, (2, 8, 8, 3)),
        ("video/avi", 24.0, (2, 8, 8, 3)),
        ("video/mp4", 24.0, (0, 8, 8, 3)),
        ("video/mp4", 24.0, (2, 8, 8, 4)),
        ("image/gif", 24.0, (2, 0, 8, 3)),
    ],
)
def test_what_cannot_be_written_is_refused(media_type: str, fps: float, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"fps|frame|written"):
        encode_video(np.zeros(shape, np.uint8), media_type, fps)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((8, 8, 3), np.float32), np.zeros((8, 9, 3), np.uint8), np.zeros((1, 8, 8, 4), np.uint8)],
    ids=["floats", "wider", "transparent"],
)
def test_frames_of_another_kind_are_refused(frames: np.ndarray) -> None:
    with closing(VideoWriter(io.BytesIO(), "video/mp4", 24.0, 8, 8)) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(ValueError, match="frame"):
            writer.write(frames)


def test_pictures_that_cannot_be_written_are_refused() -> None:
    photo = np.zeros((8, 8, 3), np.uint8)
    for pixels, media_type, quality in (
        (photo, "image/tiff", None),
        (photo, "image/png", 90),
        (photo, "image/jpeg", 101),
        (np.zeros((2, 8, 8, 3), np.uint8), "image/png", None),
        (photo.astype(np.float32), "image/png", None),
    ):
        with pytest.raises(ValueError, match=r"quality|frame|written"):
            encode_image(pixels, media_type, quality)


@pytest.mark.parametrize("fps", [0.5, 7.3, 23.976, 29.97, 60.0])
def test_rates_survive(fps: float) -> None:
    for media_type in ("video/mp4", "video/webm"):
        reader = open_frames(io.BytesIO(encode_video(pattern(5, 16, 16), media_type, fps)), None)
        assert len(list(reader)) == 5
        assert reader.info().fps == pytest.approx(fps, rel=0.01)
