"""Places of training samples: crops along the cut side, clips along the window, ticks of a rate."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_samples import animation, pattern, picture, psnr, video
from numpy.typing import NDArray

from media.errors import MediaError
from media.frame_choice import choose_frames
from media.reader import open_frames
from media.resize import plan
from media.types import MediaOptions, SampleWindow

CLIP = pattern(24, 32, 48)
MOVING = video(CLIP, fps=24, options={"preset": "ultrafast", "crf": "10", "g": "6"})


def read(data: bytes, options: MediaOptions, window: SampleWindow | None = None) -> NDArray[np.uint8]:
    return np.stack(list(open_frames(io.BytesIO(data), None, options, window=window)))


@pytest.mark.parametrize(("height", "width"), [(64, 192), (192, 64)])
@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 1.0])
def test_the_crop_moves_along_the_side_that_is_cut(height: int, width: int, place: float) -> None:
    line = np.arange(192, dtype=np.uint8)
    pixels = np.broadcast_to(line if width > height else line[:, None], (height, width))
    data = picture(np.ascontiguousarray(pixels), "PNG")
    made = read(data, MediaOptions(size=(64, 64)), SampleWindow(crop_position=place))[0, ..., 0]
    cut = line[int(128 * place) :][:64]
    assert np.array_equal(made, np.broadcast_to(cut if width > height else cut[:, None], (64, 64)))


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_a_crop_stays_inside_the_picture(height: int, width: int, place: float) -> None:
    made = plan(height, width, (48, 32), "cover", None, place)
    left, top, right, bottom = made.box
    assert 0 <= left < right <= width * (1 + 1e-9)
    assert 0 <= top < bottom <= height * (1 + 1e-9)
    assert plan(height, width, (48, 32), "cover", None, 0.5) == plan(height, width, (48, 32), "cover", None)


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40), st.floats(0, 0.999), st.integers(1, 20), st.floats(1, 60)
)
def test_frames_of_a_rate_are_those_nearest_to_its_ticks(
    gaps: list[int], start: float, frames: int, fps: float
) -> None:
    times = ((np.cumsum(gaps) - gaps[0]) / 1000).tolist()
    chosen = choose_frames(times, MediaOptions(frames=frames), SampleWindow(start_position=start, fps=fps))
    ticks = [times[chosen[0]] + tick / fps for tick in range(len(chosen))]
    for index, tick in zip(chosen, ticks, strict=True):
        nearest = min(range(len(times)), key=lambda index: (abs(times[index] - tick), index))
        assert index == nearest or (index == nearest - 1 and abs(tick - sum(times[index : index + 2]) / 2) < 0.000501)
    if len(chosen) < frames:  # the clip is too short: the next tick is past its last frame
        assert len(times) == 1 or ticks[-1] + 1 / fps > times[-1]
    if start == 0:
        assert chosen[0] == 0


@given(
    st.integers(1, 40), st.integers(1, 20), st.floats(0, 0.999), st.sampled_from([12, 24, 25, 30, 60]), st.booleans()
)
def test_the_files_own_rate_leaves_no_frame_out(
    length: int, frames: int, start: float, fps: int, rounded: bool
) -> None:
    """Also where times are rounded to milliseconds, as in Matroska."""
    times = [round(number / fps, 3) if rounded else number / fps for number in range(length)]
    for window in (SampleWindow(start_position=start), SampleWindow(start_position=start, fps=fps)):
        chosen = choose_frames(times, MediaOptions(frames=frames), window)
        assert len(chosen) == min(frames, length)
        assert chosen == list(range(chosen[0], chosen[0] + len(chosen)))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("fps", [12.0, 24.0, 30.0, 30_000 / 1001, 60.0])
def test_between_two_frames_the_earlier_is_kept_whatever_the_rounding(fps: float, rounded: bool) -> None:
    times = [round(number / fps, 3) if rounded else number / fps for number in range(40)]
    twice = choose_frames(times, MediaOptions(frames=60), SampleWindow(fps=2 * fps))
    assert twice == [tick // 2 for tick in range(60)]
    two_thirds = choose_frames(times, MediaOptions(frames=20), SampleWindow(fps=fps * 2 / 3))
    assert two_thirds == [3 * tick // 2 for tick in range(20)]


def test_every_start_is_as_likely_as_the_others() -> None:
    starts = [
        choose_frames(range(10), MediaOptions(frames=7), SampleWindow(start_position=start / 400))[0]
        for start in range(400)
    ]
    assert np.bincount(starts).tolist() == [100] * 4


@pytest.mark.parametrize("fps", [None, 24.0, 11.0, 60.0])
@pytest.mark.parametrize("start", [0.0, 0.45, 0.999])
def test_a_late_clip_equals_the_same_frames_of_the_whole(start: float, fps: float | None) -> None:
    window, options = SampleWindow(start_position=start, fps=fps), MediaOptions(frames=5)
    whole = read(MOVING, MediaOptions())
    chosen = choose_frames([number / 24 for number in range(len(CLIP))], options, window)
    assert len(chosen) >= 4
    assert np.array_equal(read(MOVING, options, window), whole[chosen])


def test_times_of_repeated_frames_are_repeated() -> None:
    reader = open_frames(io.BytesIO(MOVING), None, MediaOptions(frames=6), window=SampleWindow(fps=40))
    assert len(list(reader)) == reader.expected == 6
    assert reader.info().sampled_pts == pytest.approx(np.array([0, 1, 1, 2, 2, 3]) / 24)


def test_animations_have_places_too() -> None:
    data = animation(CLIP[:10], "PNG", milliseconds=100)
    options = MediaOptions(frames=4, animated=True)
    assert psnr(read(data, options, SampleWindow(start_position=0.999)), CLIP[6:10]) > 60
    assert psnr(read(data, options, SampleWindow(fps=20)), CLIP[[0, 0, 1, 1]]) > 60


@pytest.mark.parametrize(
    "values",
    [
        {"crop_position": -0.1},
        {"crop_position": 1.1},
        {"start_position": 1.0},
        {"start_position": float("nan")},
        {"fps": 0},
        {"fps": np.inf},
    ],
)
def test_places_out_of_range_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        SampleWindow(**values)


def test_the_window_comes_first() -> None:
    times = [number / 10 for number in range(20)]
    options = MediaOptions(frames=3, start_s=0.5, end_s=1.5)
    assert choose_frames(times, options, SampleWindow(start_position=0.999)) == [12, 13, 14]
    assert choose_frames(times, options, SampleWindow(fps=5)) == [5, 7, 9]
    with pytest.raises(MediaError):
        choose_frames(times, MediaOptions(start_s=9.0), SampleWindow(fps=5))
