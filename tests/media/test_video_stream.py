"""Clips that are decoded while they arrive: the frames of the whole file, from one pass over its bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from media_samples import pattern, video

from media.errors import MediaError
from media.faststart import faststart
from media.identify import HEAD_BYTES, identify
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import MAX_TIMES, ClipStream
from media.write import encode_video

PIXELS = pattern(40, 48, 64)
LIMITS = MediaLimits()
REORDERED = {"crf": "10", "preset": "ultrafast", "x264-params": "bframes=3:keyint=12:scenecut=0"}


def stamped_in_file_order(data: bytes) -> bytes:
    """Return an AVI as Matroska whose stamps ascend from packet to packet, whatever the order of showing."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="matroska") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.time_base, packet.pts, packet.dts = copy, Fraction(1, 24), number, number
            target.mux_one(packet)
    return buffer.getvalue()


FILES = {
    "mp4": encode_video(PIXELS, "video/mp4", 24),
    "webm": encode_video(PIXELS, "video/webm", 25),
    "matroska": video(PIXELS, container="matroska", pts=[step * step for step in range(40)], fps=1000),
    "avi": video(PIXELS, container="avi"),
    "reordered": video(PIXELS, container="matroska", options=REORDERED),
    "reordered avi": video(PIXELS, container="avi", options=REORDERED),
    "in file order": stamped_in_file_order(video(PIXELS, container="avi", options=REORDERED)),
    "mpeg4": video(PIXELS, codec="mpeg4", container="avi", options={}, fps=Fraction(30000, 1001)),
}
OPTIONS = [
    MediaOptions(),
    MediaOptions(size=(32, 24), fit="contain"),
    MediaOptions(frames=7),
    MediaOptions(sampling="stride", stride=3, frames=9),
    MediaOptions(start_s=0.3, end_s=0.9),
]


class Trickle:
    """A file that comes a few bytes at a time and cannot go back."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 777))


def stream(data: bytes, options: MediaOptions = OPTIONS[0], limits: MediaLimits | None = LIMITS) -> ClipStream:
    return ClipStream(Trickle(data).read, identify(data[:HEAD_BYTES], None), options, limits)


def refusal(data: bytes, **given: Any) -> MediaError:
    with pytest.raises(MediaError) as caught:
        list(stream(data, **given))
    return caught.value


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", FILES)
def test_its_frames_are_those_of_the_whole_file(name: str, options: MediaOptions) -> None:
    whole, passing = open_frames(io.BytesIO(FILES[name]), LIMITS, options), stream(FILES[name], options)
    np.testing.assert_array_equal(np.stack(list(passing)), np.stack(list(whole)))
    assert passing.preprocess == whole.preprocess
    assert passing.kept_fps == pytest.approx(whole.info().kept_fps, rel=1e-3)  # Matroska rounds times
    np.testing.assert_allclose(passing.info().sampled_pts, whole.info().sampled_pts)
    if options.frames is None and options.end_s is None:
        assert passing.info().frames_in == whole.info().frames_in
        assert passing.info().fps == pytest.approx(whole.info().fps)
        assert passing.info().duration_s == pytest.approx(whole.info().duration_s)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_refused_at_its_end(name: str) -> None:
    data = FILES[name]
    assert refusal(data[: 2 * len(data) // 3]).code == "corrupt-media"


def test_an_index_behind_the_pictures_is_refused_at_once() -> None:
    data = video(PIXELS)
    assert data.find(b"moov") > data.find(b"mdat") > 0
    refused = refusal(data[: data.find(b"mdat") + 100])
    assert refused.code == "unsupported-container"
    assert "faststart" in refused.detail


def test_what_only_a_whole_file_allows_is_refused() -> None:
    assert refusal(FILES["mp4"], options=MediaOptions(sampling="uniform", frames=3)).errors[0]["pointer"] == "/sampling"
    assert refusal(FILES["mp4"], options=MediaOptions(animated=True)).errors[0]["pointer"] == "/animated"
    assert refusal(encode_video(PIXELS, "image/gif", 10)).code == "unsupported-media-type"


def test_limits_hold() -> None:
    assert refusal(FILES["mp4"], limits=MediaLimits(stream_frames=39)).code == "too-many-frames"
    assert refusal(FILES["mp4"], limits=MediaLimits(kept_pixels=1000)).code == "too-many-pixels"
    assert refusal(FILES["mp4"], options=MediaOptions(start_s=99)).code == "invalid-options"


def test_the_times_of_a_long_clip_are_left_out() -> None:
    passing = stream(video(pattern(1, 16, 16).repeat(MAX_TIMES + 1, 0), container="matroska"))
    assert sum(1 for _ in passing) == MAX_TIMES + 1
    assert passing.info().sampled_pts == []
    assert passing.kept_fps == pytest.approx(24, rel=1e-3)


@pytest.mark.parametrize("audio", [False, True])
def test_a_file_with_its_index_last_is_sent_in_another_order(audio: bool) -> None:
    file = io.BytesIO(video(PIXELS, audio=audio))
    spans = faststart(file)
    moved = b"".join(piece for span in spans for piece in span.pieces(file, 1000))
    assert len(moved) == len(file.getvalue())
    np.testing.assert_array_equal(np.stack(list(stream(moved))), np.stack(list(open_frames(file, None))))
    assert [span.size for span in faststart(io.BytesIO(moved))] == [len(moved)]


@pytest.mark.parametrize("data", [*FILES.values(), b"", b"\0\0\0\x08ftyp\0\0\0\x08mdat\0\0\0\x10moov\0\0\0\x01stco"])
def test_any_other_file_is_sent_as_it_is(data: bytes) -> None:
    file = io.BytesIO(data)
    assert b"".join(piece for span in faststart(file) for piece in span.pieces(file, 1000)) == data
