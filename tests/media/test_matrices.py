"""Clips whose colours are stored in ways that FFmpeg does not convert."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from media_samples import pattern, video
from numpy.typing import NDArray

from media.errors import MediaError
from media.limits import MediaLimits
from media.reader import open_frames

PHOTO = pattern(1, 48, 64)[0]
LIMITED, FULL = 1, 2
BT709, BT2020, YCGCO = 1, 9, 8


def tagged(planes: NDArray[Any], matrix: int, primaries: int = BT709, colour_range: int = LIMITED) -> bytes:
    """A clip of one frame of 4:4:4, lossless."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream: Any = file.add_stream("libx264", rate=24)
        stream.height, stream.width = planes.shape[1:]
        stream.pix_fmt = "yuv444p10le" if planes.dtype == np.uint16 else "yuv444p"
        ranges = {LIMITED: "off", FULL: "on"}
        stream.options = {"qp": "0", "x264-params": f"fullrange={ranges[colour_range]}"}
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_range = matrix, primaries, colour_range
        frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
        for plane, samples in zip(frame.planes, planes, strict=True):
            plane.update(samples.tobytes())
        frame.colorspace, frame.color_primaries, frame.color_range = matrix, primaries, colour_range
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    return next(iter(open_frames(io.BytesIO(data), MediaLimits())))


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_green_and_orange_differences_come_back(colour_range: int, depth: int) -> None:
    red, green, blue = np.moveaxis(PHOTO / 255, -1, 0)
    luma, chroma = red / 4 + green / 2 + blue / 4, np.stack([green / 2 - red / 4 - blue / 4, red / 2 - blue / 2])
    spans = (219, 224) if colour_range == LIMITED else (255, 255)
    planes = np.concatenate([spans[0] * luma[None] + (16 if colour_range == LIMITED else 0), spans[1] * chroma + 128])
    codes = np.rint(planes * (1 << depth - 8)).clip(0, (1 << depth) - 1).astype(np.uint8 if depth == 8 else np.uint16)
    shown = read(tagged(codes, YCGCO, colour_range=colour_range))
    assert np.abs(shown.astype(int) - PHOTO).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "primaries", "like"),
    [(12, BT709, BT709), (13, BT709, BT709), (12, BT2020, BT2020), (10, BT2020, BT2020)],
)
def test_matrices_of_the_primaries_are_those_with_a_name(matrix: int, primaries: int, like: int) -> None:
    planes = np.moveaxis(PHOTO, -1, 0).copy()
    assert np.array_equal(read(tagged(planes, matrix, primaries)), read(tagged(planes, like, primaries)))


@pytest.mark.parametrize("matrix", [11, 14])
def test_others_are_refused_by_name(matrix: int) -> None:
    with pytest.raises(MediaError, match=f"matrix {matrix}") as caught:
        read(tagged(np.moveaxis(PHOTO, -1, 0).copy(), matrix))
    assert caught.value.code == "unsupported-codec"


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_that_of_rgb_says_nothing_of_luma_and_chroma(size: tuple[int, int]) -> None:
    """Players take such clips for those without a matrix."""
    without = video(pattern(1, *size))
    buffer = io.BytesIO()
    with av.open(io.BytesIO(without)) as source, av.open(buffer, "w", format="matroska") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        stating = BitStreamFilterContext("h264_metadata=matrix_coefficients=0", stream, copy)
        for packet in source.demux(stream):
            for changed in stating.filter(packet if packet.size else None):
                changed.stream = copy
                target.mux_one(changed)
    reader = open_frames(io.BytesIO(buffer.getvalue()), MediaLimits())
    (frame,) = reader
    assert "no matrix" in reader.details().colour
    assert np.array_equal(frame, read(without))
