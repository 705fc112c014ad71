"""Clips in grey, and clips with alpha in wide colours, which FFmpeg converts without their range or transfer."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from media.reader import open_frames

LIMITED, FULL = 1, 2
BT2020, PQ, HLG = 9, 16, 18
RAMP = np.linspace(0, 1, 64)
SILENT = "log-level=none:lossless=1"


def clip(codec: str, planes: list[NDArray[Any]], pixel_format: str, options: dict[str, str], **tags: int) -> bytes:
    """A lossless clip of one frame."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream: Any = file.add_stream(codec, rate=24, options=options)
        stream.height, stream.width = planes[0].shape
        stream.pix_fmt = pixel_format
        frame = av.VideoFrame(stream.width, stream.height, pixel_format)
        for plane, samples in zip(frame.planes, planes, strict=True):
            plane.update(samples.tobytes())
        for name, value in tags.items():
            setattr(frame, name, value)
            setattr(stream.codec_context, name, value)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    return next(iter(open_frames(io.BytesIO(data), None)))


def samples(values: NDArray[Any], depth: int) -> NDArray[Any]:
    kind: Any = np.uint8 if depth == 8 else np.uint16
    return np.broadcast_to(np.rint(values * (1 << depth - 8)), (48, 64)).astype(kind)


@pytest.mark.parametrize(("pixel_format", "depth"), [("gray", 8), ("gray10le", 10), ("gray12le", 12)])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_greys_reach_black_and_white(pixel_format: str, depth: int, colour_range: int) -> None:
    values = 16 + 219 * RAMP if colour_range == LIMITED else RAMP * ((1 << depth) - 1) / (1 << depth - 8)
    name = {LIMITED: "limited", FULL: "full"}[colour_range]
    options = {"x265-params": f"{SILENT}:range={name}"}
    shown = read(clip("libx265", [samples(values, depth)], pixel_format, options, color_range=colour_range))
    assert np.abs(shown - np.rint(255 * RAMP)[:, None]).max() <= 1
    assert (shown[:, 0].max(), shown[:, -1].min()) == (0, 255)


@pytest.mark.parametrize(
    ("pixel_format", "depth", "colour_range"),
    [
        ("yuv444p10le", 10, LIMITED),
        ("yuv444p10le", 10, FULL),
        ("yuv444p12le", 12, FULL),
        ("yuv444p16le", 16, FULL),
        ("gbrp10le", 10, FULL),
        ("gbrp16le", 16, FULL),
        ("gray10le", 10, FULL),
        ("gray16le", 16, FULL),
    ],
)
def test_deep_samples_are_rounded_without_bias(pixel_format: str, depth: int, colour_range: int) -> None:
    most = (1 << depth) - 1
    codes = np.rint((16 + 219 * RAMP) * (1 << depth - 8) if colour_range == LIMITED else RAMP * most)
    plane = np.broadcast_to(codes, (48, 64)).astype(np.uint16)
    neutral = np.full((48, 64), 1 << depth - 1, np.uint16)
    planes = {"y": [plane, neutral, neutral], "gb": [plane] * 3, "gr": [plane]}
    kind = next(name for name in planes if pixel_format.startswith(name))
    shown = read(clip("ffv1", planes[kind], pixel_format, {}, color_range=colour_range))
    assert np.abs(shown - (255 * RAMP)[:, None]).max() < 0.8


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("opacity", [1.0, 0.5, 0.0])
def test_wide_colours_with_alpha_are_those_without(transfer: int, opacity: float) -> None:
    planes = [samples(value, 10) for value in (16 + 150 * RAMP, 100 + 60 * RAMP, 140 - 40 * RAMP)]
    alpha = np.full((48, 64), round(opacity * 1023), np.uint16)
    tags = {"colorspace": BT2020, "color_primaries": BT2020, "color_trc": transfer, "color_range": LIMITED}
    opaque = read(clip("ffv1", planes, "yuv444p10le", {}, **tags))
    shown = read(clip("ffv1", [*planes, alpha], "yuva444p10le", {}, **tags))
    assert np.abs(shown - (opaque * opacity + 255 * (1 - opacity))).max() <= 2


@pytest.mark.parametrize(("container", "is_shown"), [("avi", False), ("matroska", False), ("mov", True)])
def test_what_fills_up_the_pixels_of_a_windows_bitmap_is_no_alpha(container: str, is_shown: bool) -> None:
    pixels = np.zeros((32, 48, 4), np.uint8)
    pixels[..., :3] = 10, 200, 90
    buffer = io.BytesIO()
    options = {"allow_raw_vfw": "1"} if container == "matroska" else {}
    with av.open(buffer, "w", format=container, container_options=options) as file:
        stream: Any = file.add_stream("rawvideo", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "argb" if is_shown else "bgra"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=stream.pix_fmt)
        file.mux(stream.encode(frame))
    assert (read(buffer.getvalue()) == (255 if is_shown else pixels[..., :3])).all()


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("is_repeated", [False, True])
def test_alpha_of_vp8_and_vp9_is_shown_though_a_tag_repeats_that_there_is_any(codec: str, is_repeated: bool) -> None:
    clear = np.zeros((32, 64, 4), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as file:
        stream: Any = file.add_stream(codec, rate=24, options={"auto-alt-ref": "0", "deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuva420p"
        if is_repeated:
            stream.metadata["alpha_mode"] = "1"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(clear, format="rgba").reformat(format="yuva420p")))
        file.mux(stream.encode(None))
    assert (read(buffer.getvalue()) >= 254).all()
