"""High dynamic range and wide gamuts, against values computed from the standards one colour at a time."""

from __future__ import annotations

import io
import math
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media.reader import open_frames
from media.tone_mapping import PQ, to_srgb
from media.types import MediaOptions
from service.settings import Limits

BT709, BT2020, DISPLAY_P3, HLG = 1, 9, 12, 18
ENCODERS = {
    "libx264": ({"qp": "0"}, "yuv420p10le"),
    "libx265": ({"x265-params": "lossless=1:log-level=none"}, "yuv420p10le"),
    "libvpx-vp9": ({"crf": "4", "b": "0", "deadline": "realtime"}, "yuv420p"),
}
WHITE_CD_M2, PEAK_CD_M2 = 203, 1000
TO_BT709 = {  # ITU-R BT.2087, and SMPTE EG 432-1 over sRGB
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    DISPLAY_P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


def pq_code(light: float) -> float:
    """SMPTE ST 2084: the code of light in cd/m2."""
    y = (light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def pq_light(code: float) -> float:
    y = code ** (1 / 78.84375)
    return 10_000 * (max(y - 0.8359375, 0) / (18.8515625 - 18.6875 * y)) ** (1 / 0.1593017578125)


def hlg_code(scene: float) -> float:
    """ITU-R BT.2100: the code of the light of a scene in [0, 1]."""
    return math.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


def srgb(light: float) -> int:
    light = min(max(light, 0), 1)
    return round(255 * (light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


def rolled_off(light: float) -> float:
    """ITU-R BT.2390, section 5.4.1: light in cd/m2 of a screen that ends at the reference white."""
    peak = pq_code(PEAK_CD_M2)
    code, limit = min(pq_code(light) / peak, 1), pq_code(WHITE_CD_M2) / peak
    knee = 1.5 * limit - 0.5
    if code > knee:
        t = (code - knee) / (1 - knee)
        code = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * limit
    return pq_light(code * peak)


def shown(light: tuple[float, ...], primaries: int) -> list[int]:
    """The sRGB colour of light in cd/m2."""
    mixed = [max(sum(a * b for a, b in zip(row, light, strict=True)), 0) for row in TO_BT709[primaries]]
    brightest = max(max(mixed), 1e-9)
    factor = rolled_off(brightest) / brightest / WHITE_CD_M2
    return [srgb(part * factor) for part in mixed]


def solid(
    rgb: tuple[float, ...], transfer: int, codec: str, container: str, primaries: int = BT2020, tags: bool = True
) -> bytes:
    """A clip of one colour, codes in [0, 1], in limited range by the matrix of BT.2020; of ten bits, but for VP9."""
    options, kind = ENCODERS[codec]
    red, green, blue = rgb
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    scale, dtype = (1, np.uint16) if kind.endswith("10le") else (4, np.uint8)
    codes = [np.full(64 * 96 // part, round(plane / scale)) for plane, part in zip(planes, (1, 4, 4), strict=True)]
    pixels = np.concatenate(codes).astype(dtype).reshape(96, 96)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, kind
        context = stream.codec_context
        context.thread_count = 1
        if tags:
            context.color_primaries, context.color_trc = primaries, transfer
            context.colorspace, context.color_range = BT2020, 1
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format=kind)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def read(data: bytes, options: MediaOptions | None = None) -> list[int]:
    """The one colour of a clip."""
    frames = np.stack(list(open_frames(io.BytesIO(data), Limits(), options))).reshape(-1, 3)
    assert (frames == frames[0]).all()
    return frames[0].tolist()


COLOURS = [(20.0, 20.0, 20.0), (203.0, 203.0, 203.0), (40.0, 10.0, 5.0), (900.0, 300.0, 100.0), (60.0, 80.0, 1000.0)]
FILES = [
    ("libx264", "mp4", 3),
    ("libx265", "mp4", 3),
    ("libx264", "matroska", 3),
    ("libvpx-vp9", "webm", 9),  # eight bits are coarse; only the container holds the transfer
]


@pytest.mark.parametrize(("codec", "container", "tolerance"), FILES)
@pytest.mark.parametrize("light", COLOURS)
def test_pq_is_tone_mapped(codec: str, container: str, tolerance: int, light: tuple[float, ...]) -> None:
    made = read(solid(tuple(map(pq_code, light)), PQ, codec, container))
    assert np.abs(np.subtract(made, shown(light, BT2020))).max() <= tolerance


@pytest.mark.parametrize(("codec", "container", "tolerance"), FILES)
@pytest.mark.parametrize("scene", [(0.05, 0.05, 0.05), (0.265, 0.265, 0.265), (0.2, 0.1, 0.02), (1.0, 1.0, 1.0)])
def test_hlg_is_tone_mapped(codec: str, container: str, tolerance: int, scene: tuple[float, ...]) -> None:
    luminance = sum(a * b for a, b in zip((0.2627, 0.6780, 0.0593), scene, strict=True))
    light = tuple(PEAK_CD_M2 * luminance**0.2 * part for part in scene)
    made = read(solid(tuple(map(hlg_code, scene)), HLG, codec, container))
    assert np.abs(np.subtract(made, shown(light, BT2020))).max() <= tolerance


def still(codes: tuple[float, ...], transfer: int, kind: str) -> bytes:
    """A picture of one colour whose tags are in a cICP chunk or in an nclx box."""
    solid = Image.new("RGB", (32, 16), tuple(round(255 * code) for code in codes))
    buffer = io.BytesIO()
    solid.save(buffer, kind, **({"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}))
    data = buffer.getvalue()
    if kind == "AVIF":
        at = data.index(b"colrnclx") + 8
        return data[:at] + struct.pack(">HH", BT2020, transfer) + data[at + 4 :]
    body = b"cICP" + bytes([BT2020, transfer, 0, 1])
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]


@pytest.mark.parametrize("kind", ["PNG", "AVIF"])
@pytest.mark.parametrize("light", COLOURS)
def test_pictures_are_tone_mapped_too(kind: str, light: tuple[float, ...]) -> None:
    codes = tuple(map(pq_code, light))
    made = read(still(codes, PQ, kind))
    assert np.abs(np.subtract(made, shown(light, BT2020))).max() <= 9  # eight bits are coarse


@pytest.mark.parametrize("primaries", [BT2020, DISPLAY_P3])
def test_wide_gamuts_of_a_standard_range_keep_their_greys(primaries: int) -> None:
    colour = (0.6, 0.4, 0.2)
    linear = [(part + 0.055) / 1.055 for part in colour]
    mixed = [sum(a * b**2.4 for a, b in zip(row, linear, strict=True)) for row in TO_BT709[primaries]]
    made = read(solid(colour, BT709, "libx264", "mp4", primaries))
    assert np.abs(np.subtract(made, [srgb(part) for part in mixed])).max() <= 2
    assert np.abs(np.subtract(read(solid((0.5,) * 3, BT709, "libx264", "mp4", primaries)), 128)).max() <= 1


def test_deep_clips_without_tags_are_not_tone_mapped() -> None:
    made = read(solid((0.5, 0.5, 0.5), PQ, "libx264", "mp4", tags=False))
    assert np.abs(np.subtract(made, 128)).max() <= 2


def test_frames_are_resampled_before_they_are_tone_mapped() -> None:
    data = solid((0.5, 0.4, 0.3), PQ, "libx265", "mp4")
    assert read(data, MediaOptions(size=(20, 30))) == read(data)
    framed = MediaOptions(size=(40, 30), fit="contain")
    (first, *_) = open_frames(io.BytesIO(data), Limits(), framed)
    assert (first[:9] == 0).all()
    assert first[20, 15].tolist() == read(data)


@given(st.lists(st.floats(0.001, 4000), min_size=2, max_size=50))
def test_brighter_light_is_never_darker(light: list[float]) -> None:
    codes = [round(65280 * pq_code(part)) for part in sorted(light)]
    grey = to_srgb(np.repeat(np.array([codes], np.uint16)[..., None], 3, -1), PQ, BT2020)
    assert (np.diff(grey.astype(int), axis=1) >= 0).all()
    assert (np.ptp(grey.astype(int), axis=2) <= 1).all()
