"""H.264 that does not say by how many frames it is reordered, and that begins without any reordering."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from media_samples import pattern, psnr
from numpy.typing import NDArray

from media.bits import Bits
from media.limits import MediaLimits
from media.reader import open_frames
from media.timestamps import Packet, may_reorder
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(50, 48, 64)
PLAIN = 40  # frames at first, more than FFmpeg looks at before it decides
CODING = {"crf": "10", "x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:keyint=250:scenecut=0"}


def without_usability(unit: bytes) -> bytes:
    """Return a sequence's parameters without what is said about how to show it, filled up to the same length."""
    plain = unit[1:].replace(b"\0\0\3", b"\0\0")
    bits = Bits(plain)
    bits.take(24)
    bits.golomb()
    if plain[0] == 100:  # High
        for _ in ("chroma", "luma", "chroma depth"):
            bits.golomb()
        assert bits.take(2) == 0
    bits.golomb()  # of the numbers of frames
    assert bits.golomb() == 0
    for _ in ("order", "references"):
        bits.golomb()
    bits.take(1)
    for _ in ("width", "height"):
        bits.golomb()
    assert bits.take(2) == 3
    if bits.take(1):
        for _ in ("left", "right", "top", "bottom"):
            bits.golomb()
    kept = "".join(f"{byte:08b}" for byte in plain)[: -bits._left] + "01"
    made = int(kept.ljust(-(-len(kept) // 8) * 8, "0"), 2).to_bytes(-(-len(kept) // 8), "big")
    assert b"\0\0" not in made
    return (unit[:1] + made).ljust(len(unit), b"\0")


def clip() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("libx264", rate=25, options=CODING)
        stream.height, stream.width, stream.pix_fmt = *CLIP.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(CLIP):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            if number < PLAIN:
                frame.pict_type = PictureType.P if number else PictureType.I
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = buffer.getvalue()
    start = data.index(b"\x01\x64\x00") + 8  # of the sequence's parameters, behind their length
    size = int.from_bytes(data[start - 2 : start], "big")
    return data[:start] + without_usability(data[start : start + size]) + data[start + size :]


def numbers(frames: list[NDArray[np.uint8]]) -> list[int]:
    return [int(np.argmax([psnr(frame, original) for original in CLIP])) for frame in frames]


@pytest.fixture(scope="module")
def data() -> bytes:
    return clip()


def test_no_frame_is_lost_where_reordering_begins(data: bytes) -> None:
    reader = open_frames(io.BytesIO(data), MediaLimits())
    assert numbers(list(reader)) == list(range(len(CLIP)))
    assert reader.info().sampled_pts == pytest.approx(np.arange(len(CLIP)) / 25)


def test_nor_while_the_clip_arrives(data: bytes) -> None:
    passing = ClipStream(io.BytesIO(data).read, "video/x-matroska", MediaOptions(), MediaLimits())
    assert numbers(list(passing)) == list(range(len(CLIP)))


@pytest.mark.parametrize(
    ("stamps", "reorders", "expected"),
    [
        ([0, 1, 2, 3], False, False),
        ([0, 2, 1, 4, 3], True, False),
        ([0, 4, 2, 1, 3], True, True),
        ([0, 3, 1, 2], True, False),
        ([0, 1, 2, 3], True, True),  # these cannot be the frames' own
        ([0, None, 2], False, True),
    ],
)
def test_packets_show_how_far_frames_are_reordered(stamps: list[int | None], reorders: bool, expected: bool) -> None:
    assert may_reorder([Packet(stamp, False, True, 1) for stamp in stamps], reorders) == expected
