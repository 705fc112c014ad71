"""Windows of videos as training reads them: exactly the frames of a whole decode, whatever the container and rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.frame_choice import choose_frames
from media.types import MediaOptions, SampleWindow
from training.data.files import Source, find_files

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
    "camcorder.m2ts": {"codec": "libx264", "g": "10", "format": "mpegts"},
    "camera.mts": {"codec": "libx264", "g": "10", "format": "mpegts"},
    "disc.vob": {"codec": "mpeg2video", "g": "10"},
    "programme.mpg": {"codec": "mpeg1video", "g": "10"},
    "flash.flv": {"codec": "libx264", "g": "10"},
    "free.ogv": {"codec": "libvpx", "g": "10", "deadline": "realtime"},
    "windows.wmv": {"codec": "wmv2", "g": "10"},
    "loop.gif": {"codec": "gif"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for name, options in CONTAINERS.items():
        record(made / name, **options)
    return made


def clips(path: Path) -> Source:
    found = find_files(path).clips
    assert found is not None
    return found


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_window_is_what_a_whole_decode_shows(folder: Path, name: str) -> None:
    source = clips(folder / name)
    place = SampleWindow(crop_position=0.3)
    whole = source.read(0, 32, FRAMES, place)
    times = whole.source.sampled_pts
    assert len(times) == FRAMES
    assert whole.pixels.dtype == np.uint8
    assert len({frame.tobytes() for frame in whole.pixels}) == FRAMES
    for fps in (None, 30.0, 11.0, 70.0):
        for start in (0.0, 0.45, 0.999):
            window = SampleWindow(0.3, start, fps)
            wanted = choose_frames(times, MediaOptions(frames=5), window)
            wanted += wanted[-1:] * (5 - len(wanted))
            made = source.read(0, 32, 5, window).pixels
            assert made.shape == (5, 32, 32, 3)
            assert np.array_equal(made, whole.pixels[wanted]), (fps, start)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if not name.startswith("varying")])
def test_the_frames_of_an_even_clip_are_those_of_their_numbers(folder: Path, name: str) -> None:
    times = clips(folder / name).read(0, 32, FRAMES).source.sampled_pts
    assert times == pytest.approx(np.arange(FRAMES) / 30, abs=0.0011 if name != "loop.gif" else 1)


def test_recordings_that_were_cut_off_live_have_all_their_frames(tmp_path: Path) -> None:
    """A live recording in Matroska has neither length nor index."""

    class Pipe:
        """A file that cannot go back to fill in what is known at the end."""

        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

    pipe = Pipe(tmp_path / "live.mkv")
    record(tmp_path / "live.mkv", "libx264", file=pipe, format="matroska", g="10")
    pipe.file.close()
    source = clips(tmp_path)
    whole = source.read(0, 32, FRAMES)
    assert whole.source.duration_s == pytest.approx(FRAMES / 30, abs=0.04)
    made = source.read(0, 32, 5, SampleWindow(start_position=0.7)).pixels
    first = int(0.7 * (FRAMES - 4))
    assert np.array_equal(made, whole.pixels[first : first + 5])


def test_a_short_video_holds_its_last_frame() -> None:
    made = clips(SAMPLE).read(0, 32, 40).pixels  # it has 33
    assert not np.array_equal(made[31], made[32])
    assert all(np.array_equal(frame, made[32]) for frame in made[33:])


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "noise", "playlist"])
def test_broken_videos_are_refused(tmp_path: Path, folder: Path, damage: str) -> None:
    data = bytearray((folder / "plain.mp4").read_bytes())
    data = {
        "empty": bytearray(),
        "text": bytearray(b"I am no video" * 100),
        "cut": data[: len(data) // 2],
        "noise": data[:200] + np.random.default_rng(0).bytes(len(data) - 200),
        "playlist": bytearray(f"#EXTM3U\n#EXTINF:1,\nfile://{folder / 'plain.mp4'}\n".encode()),
    }[damage]
    (tmp_path / "broken.mp4").write_bytes(data)
    with pytest.raises(Exception):  # noqa: B017, PT011  # decoders raise many kinds
        clips(tmp_path).read(0, 32, 5, SampleWindow(start_position=0.5))


def test_a_picture_with_the_name_of_a_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes((SAMPLE.parent / "igloo.png").read_bytes())
    with pytest.raises(Exception, match="The file is one picture, and its name says otherwise"):
        clips(tmp_path).read(0, 32, 5)
