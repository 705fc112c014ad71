"""Statements of one packet for those after it: parameters of a later part of an mp4, and palettes."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
from media_samples import pattern, video

from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

GROUP, FPS = 5, 24
Part = tuple[bytes, list[tuple[bytes, bool]]]  # a description, and packets of which some are key frames
UNIT_MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def part(clip: np.ndarray, pixel_format: str = "yuv420p") -> Part:
    options = {"crf": "5", "preset": "ultrafast", "x264-params": f"bframes=0:keyint={GROUP}:scenecut=0"}
    data = video(clip, options=options, pixel_format=pixel_format)
    start = data.index(b"stsd") + 12
    (size,) = struct.unpack_from(">I", data, start)
    with av.open(io.BytesIO(data)) as file:
        packets = [(bytes(packet), packet.is_keyframe) for packet in file.demux(video=0) if packet.size]
    return data[start : start + size], packets


def box(kind: bytes, *content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def table(kind: bytes, *numbers: int, content: bytes = b"", flags: int = 0) -> bytes:
    return box(kind, struct.pack(f">{len(numbers) + 1}I", flags, *numbers), content)


def joined(*parts: Part) -> bytes:
    """One track of all parts, each packet a chunk of its own."""
    packets = [packet for _, group in parts for packet in group]
    descriptions = [number for number, (_, group) in enumerate(parts, 1) for _ in group]
    count = len(packets)
    chunks = [value for number, which in enumerate(descriptions, 1) for value in (number, 1, which)]
    keys = [number for number, (_, is_key) in enumerate(packets, 1) if is_key]
    head = box(b"ftyp", b"isom\0\0\2\0isomavc1")

    def index(start: int) -> bytes:
        places = start + np.cumsum([0, *(len(data) for data, _ in packets[:-1])])
        samples = box(
            b"stbl",
            table(b"stsd", len(parts), content=b"".join(description for description, _ in parts)),
            table(b"stts", 1, count, 1),
            table(b"stsc", count, *chunks),
            table(b"stsz", 0, count, *(len(data) for data, _ in packets)),
            table(b"stco", count, *places.tolist()),
            table(b"stss", len(keys), *keys),
        )
        source = box(b"dinf", table(b"dref", 1, content=table(b"url ", flags=1)))
        media = box(
            b"mdia",
            table(b"mdhd", 0, 0, FPS, count, 0),
            box(b"hdlr", bytes(8), b"vide", bytes(13)),
            box(b"minf", table(b"vmhd", 0, 0, flags=1), source, samples),
        )
        track = table(b"tkhd", 0, 0, 1, 0, count, 0, 0, 0, 0, content=UNIT_MATRIX + struct.pack(">II", 0, 0), flags=3)
        movie = table(b"mvhd", 0, 0, FPS, count, 1 << 16, 1 << 24, 0, 0, content=UNIT_MATRIX + bytes(24) + b"\0\0\0\2")
        return box(b"moov", movie, box(b"trak", track, media))

    return head + index(len(head) + len(index(0)) + 8) + box(b"mdat", *(data for data, _ in packets))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("size", [(48, 64), (96, 128)])
def test_a_window_of_a_later_part_is_read_with_its_own_parameters(size: tuple[int, int], pixel_format: str) -> None:
    first, second = part(pattern(10, 48, 64)), part(pattern(30, *size)[10:], pixel_format)
    data, alone = joined(first, second), list(open_frames(io.BytesIO(joined(second)), MediaLimits()))
    assert len(alone) == 20
    for begin in (10, 12, 17, 22, 29):
        options = MediaOptions(start_s=(begin - 0.1) / FPS, frames=3)
        expected = alone[begin - 10 : begin - 7]
        assert np.array_equal(list(open_frames(io.BytesIO(data), MediaLimits(), options)), expected)
        arriving = ClipStream(io.BytesIO(data).read, "video/mp4", options, MediaLimits())
        assert np.array_equal(list(arriving), expected)
    assert len(list(open_frames(io.BytesIO(data), MediaLimits()))) == 30


@pytest.mark.parametrize("container", ["avi", "mov"])
def test_a_window_has_the_palette_of_the_first_frame(container: str) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 4)).astype(np.uint8)
    places = [((np.indices((48, 64)).sum(0) + 5 * number) % 256).astype(np.uint8) for number in range(12)]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream("rawvideo", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "pal8"
        for number, indices in enumerate(places):
            pair: Any = (indices, palette)
            frame = av.VideoFrame.from_ndarray(pair, format="pal8")
            frame.pts = number
            file.mux(stream.encode(frame))
    expected = palette[places[6:9], 1:]
    options = MediaOptions(start_s=5.9 / FPS, frames=3)
    assert np.array_equal(list(open_frames(io.BytesIO(buffer.getvalue()), None, options)), expected)
