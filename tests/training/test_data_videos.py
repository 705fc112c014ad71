"""Windows of videos: exactly the frames of a whole decode, at any rate, with or without a way to seek."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import videos
from training.data.files import Section
from training.data.videos import Video, clip, pick, squares
from training.errors import TrainingError

SIZE, FRAMES = (96, 64), 60
SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "flight.mp4"


def record(
    path: Path, codec: str, times: list[int] | None = None, file: Any = None, format: str | None = None, **options: str
) -> None:
    """A pattern that moves, 30 frames a second, or at given times in milliseconds."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    with av.open(file or str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            pixels = np.stack([columns + 5 * number, 2 * rows + 3 * number, rows + columns + 7 * number], -1) % 256
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), "rgb24").reformat(format=stream.pix_fmt)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


VARYING = np.cumsum(np.random.default_rng(0).integers(10, 120, FRAMES)).tolist()
CONTAINERS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"codec": "libx264", "g": "12", "bf": "3"},
    "open-groups.mp4": {"codec": "libx264", "x264-params": "open-gop=1:bframes=3:keyint=16"},
    "one-group.mkv": {"codec": "libx264", "g": "1000"},
    "varying.mp4": {"codec": "libx264", "times": VARYING, "g": "10"},
    "varying.mkv": {"codec": "libx264", "times": VARYING, "g": "10"},
    "old.avi": {"codec": "mpeg4", "g": "10"},
    "broadcast.ts": {"codec": "mpeg2video", "g": "10"},
    "programme.mpg": {"codec": "mpeg1video", "g": "10"},
    "flash.flv": {"codec": "libx264", "g": "10"},
    "loop.gif": {"codec": "gif"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for name, options in CONTAINERS.items():
        record(made / name, **options)
    return made


def whole(path: Path) -> tuple[Video, list[tuple[float, Any]]]:
    """All frames with their times, decoded from the start without a seek."""
    video = Video(Section(path), path.suffix)
    return video, list(video.from_time(video.start))


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_window_is_what_a_whole_decode_shows(folder: Path, name: str) -> None:
    path = folder / name
    video, frames = whole(path)
    assert len(frames) == FRAMES
    for fps in (None, 30.0, 11.0):
        for when in (0.0, 0.45, 0.999):
            begin = video.start + when * max(0.0, video.length - 5 / (fps or video.rate))
            wanted = squares(pick(iter(frames), begin, 5, fps), 32, 0.3)
            made = clip(Section(path), path.suffix, 32, 5, fps, when, 0.3)
            assert np.array_equal(made, wanted), (fps, when)
            assert made.dtype == np.uint8
            assert made.shape == (5, 32, 32, 3)


def test_a_late_window_is_reached_by_a_seek(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames before the key frame are not decoded."""
    counted = 0
    plain = Video._frames

    def count(self: Video) -> Iterator[tuple[float, Any]]:
        nonlocal counted
        for timed in plain(self):
            counted += 1
            yield timed

    monkeypatch.setattr(Video, "_frames", count)
    clip(Section(folder / "plain.mp4"), ".mp4", 32, 5, None, 0.999, 0.5)
    assert counted <= 5 + 12 + 1  # the window, at most a group before it, and one to look ahead


def test_files_without_length_or_times_are_read_to_the_end_first(tmp_path: Path) -> None:
    """A live recording in Matroska has no length or index; a stream in AVI without them gives frames no times."""

    class Pipe:
        """A file that cannot go back to fill in what is known at the end."""

        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

    pipe = Pipe(tmp_path / "live.mkv")
    record(tmp_path / "live.mkv", "libx264", file=pipe, format="matroska", g="10")
    pipe.file.close()
    video, frames = whole(tmp_path / "live.mkv")
    assert len(frames) == FRAMES
    assert video.length == pytest.approx(FRAMES / 30, abs=0.01)
    begin = video.start + 0.7 * (video.length - 5 / video.rate)
    made = clip(Section(tmp_path / "live.mkv"), ".mkv", 32, 5, None, 0.7, 0.5)
    assert np.array_equal(made, squares(pick(iter(frames), begin, 5, None), 32, 0.5))


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(0, 4000), st.integers(1, 20),
    st.integers(1, 60),
)  # fmt: skip
def test_frames_are_those_nearest_in_time(gaps: list[int], begin: int, count: int, fps: int) -> None:
    times = (np.cumsum(gaps) / 1000).tolist()
    timed = [(time, number) for number, time in enumerate(times)]
    chosen = pick(iter(timed), begin / 1000, count, fps)
    first = max((n for n, time in enumerate(times) if time <= begin / 1000), default=0)
    due = [times[first] + k / fps for k in range(count)]
    assert chosen == [min(range(first, len(times)), key=lambda n: (abs(times[n] - moment), n)) for moment in due]


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 20), st.sampled_from([12, 24, 25, 30, 60]))
def test_the_files_own_rate_leaves_no_frame_out(length: int, start: int, count: int, rate: int) -> None:
    """Also where times are rounded to milliseconds, as in Matroska; past the end the last frame stays."""
    timed = [(round(number / rate, 3), number) for number in range(length)]
    start = min(start, length - 1)
    wanted = [min(start + k, length - 1) for k in range(count)]
    assert pick(iter(timed), timed[start][0], count, rate) == wanted
    assert pick(iter(timed), timed[start][0], count, None) == wanted


def test_a_short_video_holds_its_last_frame(folder: Path) -> None:
    made = clip(Section(SAMPLE), ".mp4", 32, 40, None, 0.5, 0.5)  # it has 33
    assert not np.array_equal(made[31], made[32])
    assert all(np.array_equal(frame, made[32]) for frame in made[33:])


def test_a_rotated_recording_is_upright(tmp_path: Path, folder: Path) -> None:
    """A telephone held upright stores frames on their side, with a matrix that turns them clockwise by a quarter."""
    data = (folder / "plain.mp4").read_bytes()
    matrix = struct.Struct(">9i")
    one, whole_turn = 1 << 16, 1 << 30
    upright = matrix.pack(one, 0, 0, 0, one, 0, 0, 0, whole_turn)
    track = data.index(upright, data.index(b"tkhd"))
    turned = matrix.pack(0, one, 0, -one, 0, 0, SIZE[1] * one, 0, whole_turn)
    (tmp_path / "turned.mp4").write_bytes(data[:track] + turned + data[track + len(turned) :])
    stored, shown = (
        clip(Section(path), ".mp4", 64, 3, None, 0.2, 0.0) for path in (folder / "plain.mp4", tmp_path / "turned.mp4")
    )
    assert np.array_equal(shown, np.rot90(stored, -1, axes=(1, 2)))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "noise", "playlist"])
def test_broken_videos_are_refused(tmp_path: Path, folder: Path, damage: str) -> None:
    data = bytearray((folder / "plain.mp4").read_bytes())
    data = {
        "empty": bytearray(),
        "text": bytearray(b"I am no video" * 100),
        "cut": data[: len(data) // 2],
        "noise": data[:200] + np.random.default_rng(0).bytes(len(data) - 2200) + data[-2000:],
        "playlist": bytearray(f"#EXTM3U\n#EXTINF:1,\nfile://{folder / 'plain.mp4'}\n".encode()),
    }[damage]
    path = tmp_path / "broken.mp4"
    path.write_bytes(data)
    with pytest.raises(Exception):  # noqa: B017, PT011  # decoders raise many kinds
        clip(Section(path), ".mp4", 32, 5, None, 0.5, 0.5)


def test_frames_that_are_too_large_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "MAX_PIXELS", 1000)
    with pytest.raises(TrainingError, match="its frames of 96x64 pixels are too large"):
        clip(Section(folder / "plain.mp4"), ".mp4", 32, 5, None, 0.5, 0.5)


def test_strips_that_would_become_sheets_are_refused() -> None:
    with pytest.raises(TrainingError, match="frames of 40000x16 pixels are too narrow for squares of 128"):
        videos.squares([av.VideoFrame(40_000, 16, "rgb24")], 128, 0.5)
