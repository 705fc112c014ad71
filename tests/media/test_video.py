"""Clips of every codec become the right frames, and every limit holds."""

from __future__ import annotations

import gc
import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st
from media_samples import audio_only, pattern, psnr, rotated, video
from numpy.typing import NDArray

from media.errors import MediaError
from media.frame_choice import choose_frames
from media.reader import open_frames
from media.types import Frames, MediaOptions, SampleWindow
from service.settings import Limits

LIMITS = Limits()
CLIP = pattern(17, 64, 96)
FAST_VPX = {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "2M"}
FINE = {"b": "8M", "qmax": "2"}
CODECS = {
    "h264": video(CLIP),
    "h264 in mov": video(CLIP, container="mov"),
    "h264 in matroska": video(CLIP, container="matroska"),
    "hevc": video(CLIP, "libx265", options={"preset": "ultrafast", "crf": "10", "x265-params": "log-level=none"}),
    "vp8": video(CLIP, "libvpx", "webm", options=FAST_VPX),
    "vp9": video(CLIP, "libvpx-vp9", "webm", options=FAST_VPX),
    # The same clip; its encoder, libsvtav1, would give a process of root the priority of real time.
    "av1": Path(__file__).with_name("av1.mp4").read_bytes(),
    "mpeg4": video(CLIP, "mpeg4", options=FINE),
    "mpeg4 in avi": video(CLIP, "mpeg4", "avi", options=FINE),
    "mpeg4 with B-frames in avi": video(CLIP, "mpeg4", "avi", options=FINE | {"bf": "2"}),
    "h264 in avi": video(CLIP, container="avi"),
}


def read(
    data: bytes, options: MediaOptions | None = None, limits: Limits | None = LIMITS
) -> tuple[NDArray[np.uint8], Frames]:
    reader = open_frames(io.BytesIO(data), limits, options)
    pixels = np.stack(list(reader))
    return pixels, Frames(pixels, reader.info(), reader.preprocess, reader.is_video)


def refused(data: bytes, options: MediaOptions | None = None, limits: Limits = LIMITS) -> MediaError:
    with pytest.raises(MediaError) as caught:
        read(data, options, limits)
    return caught.value


def which(pixels: NDArray[np.uint8], clip: NDArray[np.uint8] = CLIP) -> list[int]:
    """For each frame, the frame of the original clip that it is closest to."""
    return [int(np.argmax([psnr(frame, original) for original in clip])) for frame in pixels]


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_every_frame(name: str) -> None:
    pixels, frames = read(CODECS[name])
    assert pixels.shape == CLIP.shape
    assert min(map(psnr, pixels, CLIP)) > 28
    assert which(pixels) == list(range(17))
    source = frames.source
    assert source.codec == name.split()[0]
    assert (source.height, source.width, source.frames_in) == (64, 96, 17)
    assert source.fps == source.kept_fps == pytest.approx(24)
    assert source.duration_s == pytest.approx(17 / 24, abs=0.01)
    assert source.sampled_pts == pytest.approx(np.arange(17) / 24, abs=0.001)
    assert frames.is_video


def test_h263_of_an_old_phone() -> None:
    clip = pattern(17, 96, 128)  # one of the few sizes that the codec has
    pixels, frames = read(video(clip, "h263", "3gp", options=FINE))
    assert pixels.shape == (17, 96, 140, 3)  # its pixels are 12:11 by definition
    assert len(frames.source.sampled_pts) == 17
    assert (frames.source.media_type, frames.source.codec) == ("video/mp4", "h263")


def test_high_bit_depth_and_full_chroma() -> None:
    for pixel_format in ("yuv444p", "yuv420p10le"):
        pixels, _ = read(video(CLIP[:3], pixel_format=pixel_format))
        assert psnr(pixels, CLIP[:3]) > 30


@pytest.mark.parametrize("container", ["matroska", "mp4"])
@pytest.mark.parametrize("default", [None, 0, 1])
def test_the_default_track_is_shown(container: str, default: int | None) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        streams: list[Any] = [file.add_stream("libx264", rate=24) for _ in range(2)]
        for index, stream in enumerate(streams):
            stream.width = stream.height = 32 * (index + 1)
            stream.disposition = Disposition.default if index == default else Disposition(0)
        for stream in streams:
            black = np.zeros((stream.height, stream.width, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
            file.mux(stream.encode(None))
    assert read(buffer.getvalue())[0].shape[1] == 32 * ((default or 0) + 1)


def test_sound_and_further_tracks_are_skipped() -> None:
    pixels, frames = read(video(CLIP, audio=True))
    assert which(pixels) == list(range(17))
    assert frames.source.frames_in == 17
    assert read(video(CLIP[:2], tracks=3))[0].shape == (2, 64, 96, 3)


def test_a_display_matrix_is_applied() -> None:
    pixels, frames = read(rotated(CODECS["h264"], 64))
    assert psnr(pixels, np.rot90(CLIP, -1, (1, 2))) > 30
    assert (frames.source.height, frames.source.width) == (96, 64)


def test_sizes_are_met_while_reading() -> None:
    pixels, frames = read(CODECS["h264"], MediaOptions(size=(32, 32), fit="cover"))
    assert pixels.shape == (17, 32, 32, 3)
    assert frames.preprocess.resize == (32, 48)
    assert frames.preprocess.crop == (0, 8, 32, 32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (MediaOptions(frames=5), [0, 1, 2, 3, 4]),
        (MediaOptions(frames=5, sampling="uniform"), [0, 4, 8, 12, 16]),
        (MediaOptions(frames=99, sampling="uniform"), list(range(17))),
        (MediaOptions(sampling="stride", stride=6), [0, 6, 12]),
        (MediaOptions(sampling="stride", stride=4, frames=3), [0, 4, 8]),
        (MediaOptions(start_s=0.4), list(range(10, 17))),
        (MediaOptions(start_s=0.4, end_s=0.55, frames=3), [10, 11, 12]),
        (MediaOptions(start_s=0.1, end_s=0.6, frames=3, sampling="uniform"), [3, 9, 14]),
    ],
)
@pytest.mark.parametrize("name", ["h264", "vp9"])
def test_sampling_keeps_the_right_frames(name: str, options: MediaOptions, expected: list[int]) -> None:
    pixels, frames = read(CODECS[name], options)
    assert which(pixels) == expected
    assert frames.source.sampled_pts == pytest.approx(np.array(expected) / 24, abs=0.001)


@given(
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(1, 80)),
    st.sampled_from(["first", "uniform", "stride"]),
    st.integers(1, 9),
)
def test_sampling_laws(count: int, frames: int | None, sampling: str, stride: int) -> None:
    times = [index / 25 for index in range(count)]
    stride = stride if sampling == "stride" else 1
    chosen = choose_frames(times, MediaOptions(frames=frames, sampling=sampling, stride=stride), SampleWindow())  # type: ignore[arg-type]
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    available = -(-count // stride) if sampling == "stride" else count
    assert len(chosen) == (available if frames is None else min(frames, available))
    if sampling == "uniform" and len(chosen) > 1:
        assert chosen[-1] == count - 1
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 1


def test_kept_frames_carry_their_own_rate() -> None:
    _, frames = read(CODECS["h264"], MediaOptions(sampling="stride", stride=4))
    assert frames.source.fps == pytest.approx(24)
    assert frames.source.kept_fps == pytest.approx(6)


def test_a_variable_rate_is_averaged() -> None:
    pts = [0, 1, 2, 3, 10, 11, 12, 30, 36]
    pixels, frames = read(video(CLIP[:9], pts=pts, fps=24))
    assert which(pixels) == list(range(9))
    assert frames.source.fps == pytest.approx(8 / (36 / 24), rel=0.1)
    assert frames.source.sampled_pts == pytest.approx(np.array(pts) / 24)


def test_a_window_without_frames_is_an_invalid_option() -> None:
    problem = refused(CODECS["h264"], MediaOptions(start_s=5.0))
    assert problem.code == "invalid-options"
    assert "0.667" in problem.detail


def test_a_window_late_in_the_clip_decodes_only_what_it_needs() -> None:
    clip = pattern(40, 32, 32)
    data = video(clip, options={"preset": "ultrafast", "crf": "10", "g": "10"})
    pixels, _ = read(data, MediaOptions(start_s=35 / 24), Limits(decoded_frames=12))
    assert which(pixels, clip) == [35, 36, 37, 38, 39]


@pytest.mark.parametrize(
    ("limits", "slug"),
    [
        (Limits(kept_frames=16), "too-many-frames"),
        (Limits(decoded_frames=16), "too-many-frames"),
        (Limits(decoded_pixels=17 * 64 * 96 - 1), "decode-budget"),
        (Limits(demuxed_packets=16), "decode-budget"),
        (Limits(video_pixels=64 * 96 - 1), "too-many-pixels"),
        (Limits(video_side=95), "too-many-pixels"),
        (Limits(kept_pixels=64 * 96 - 1), "too-many-pixels"),
        (Limits(clip_pixels=17 * 64 * 96 - 1), "too-many-pixels"),
        (Limits(duration_seconds=0.7), "too-long"),
    ],
)
@pytest.mark.parametrize("name", ["h264", "vp9"])
def test_limits(name: str, limits: Limits, slug: str) -> None:
    problem = refused(CODECS[name], limits=limits)
    assert problem.code == slug
    assert problem.limit is not None
    assert problem.actual is not None
    assert problem.actual > problem.limit


def test_a_limit_that_is_met_exactly_is_no_problem() -> None:
    exact = Limits(
        kept_frames=17,
        decoded_frames=17,
        decoded_pixels=17 * 64 * 96,
        demuxed_packets=17,
        video_pixels=64 * 96,
        video_side=96,
        kept_pixels=64 * 96,
        clip_pixels=17 * 64 * 96,
        duration_seconds=0.709,
    )
    assert read(CODECS["h264"], limits=exact)[0].shape == CLIP.shape


def test_too_many_frames_says_how_to_ask_for_fewer() -> None:
    problem = refused(video(pattern(140, 16, 16)))
    assert (problem.code, problem.limit, problem.actual) == ("too-many-frames", 129, 140)
    assert all(word in problem.detail for word in ("`frames`", "`start_s`", "`stride`"))


def test_a_trusted_file_has_no_limits(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    path.write_bytes(video(pattern(300, 16, 16)))
    with path.open("rb") as file:
        assert sum(1 for _ in open_frames(file, None)) == 300


def test_a_header_that_lies_about_its_size_does_not_fool_the_decoder() -> None:
    data = CODECS["h264"]
    entry = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[entry : entry + 4] == b"\0\x60\0\x40"
    small = data[:entry] + b"\0\x10\0\x10" + data[entry + 4 :]
    track = data.index(b"tkhd") + 80
    assert data[track : track + 8] == b"\0\x60\0\0\0\x40\0\0"
    small = small[:track] + b"\0\x10\0\0\0\x10\0\0" + small[track + 8 :]
    assert refused(small, limits=Limits(video_pixels=4000)).code == "too-many-pixels"
    assert read(small)[0].shape == CLIP.shape


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (audio_only(), "no-video-stream"),
        (audio_only(cover=True), "no-video-stream"),
        (video(CLIP[:2], "prores", "mov", options={}, pixel_format="yuv422p10le"), "unsupported-codec"),
        (video(CLIP, "ffv1", "matroska", pixel_format="yuv420p", options={}), "unsupported-codec"),
        (video(CLIP[:1], tracks=9), "decode-budget"),
    ],
    ids=["audio only", "audio with a cover", "prores", "ffv1", "nine tracks"],
)
def test_files_without_a_usable_stream(data: bytes, slug: str) -> None:
    assert refused(data).code == slug


def test_a_frame_that_was_read_ends_without_the_collector() -> None:
    def read() -> None:
        for _ in open_frames(io.BytesIO(CODECS["h264"]), None):
            pass

    read()  # fills caches
    gc.disable()
    try:
        gc.collect()
        read()
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("frames", [1, 5])
def test_a_single_picture_in_front_of_a_clip_is_passed_over(frames: int) -> None:
    clip, buffer = pattern(frames, 48, 64), io.BytesIO()
    with av.open(buffer, "w", format="mov") as file:
        poster: Any = file.add_stream("mjpeg", rate=24)
        poster.height, poster.width, poster.pix_fmt = 32, 32, "yuvj420p"
        stream: Any = file.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for track, pictures in ((poster, np.zeros((1, 32, 32, 3), np.uint8)), (stream, clip)):
            for number, pixels in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                file.mux(track.encode(frame))
            file.mux(track.encode(None))
    shape = (frames, 48, 64, 3) if frames > 1 else (1, 32, 32, 3)
    assert np.stack(list(open_frames(io.BytesIO(buffer.getvalue()), Limits()))).shape == shape
