"""Interlaced H.264 whose frames are two pictures, as camcorders write it, in a packet for each or for both."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from media_samples import pattern, psnr, video
from numpy.typing import NDArray

from media.h264_fields import FieldPairs
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(12, 64, 32)
START = b"\0\0\0\1"


class Writer:
    """The bits of a unit of H.264."""

    def __init__(self) -> None:
        self._bits = ""

    def bits(self, *pairs: tuple[int, int]) -> Writer:
        """Append numbers, each with its count of bits."""
        self._bits += "".join(f"{number:0{count}b}" for count, number in pairs)
        return self

    def golomb(self, *numbers: int) -> Writer:
        for number in numbers:
            self.bits((2 * (number + 1).bit_length() - 1, number + 1))
        return self

    def samples(self, *planes: NDArray[np.uint8]) -> Writer:
        self._bits += "0" * (-len(self._bits) % 8)
        return self.bits(*((8, byte) for plane in planes for byte in plane.tobytes()))

    def unit(self, head: int) -> bytes:
        """Return the unit, with the bytes that keep marks out of it."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        made, zeros = bytearray([head]), 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                made.append(3)
                zeros = 0
            made.append(byte)
            zeros = 0 if byte else zeros + 1
        return bytes(made)


def parameters(height: int, width: int) -> bytes:
    """The parameters of a sequence of the main profile that may have fields, and those of its pictures."""
    sequence = Writer().bits((8, 77), (8, 0), (8, 30)).golomb(0, 0, 0, 0, 1).bits((1, 0))
    sequence.golomb(width // 16 - 1, height // 32 - 1).bits((1, 0), (1, 0), (1, 1), (1, 0), (1, 0))
    pictures = Writer().golomb(0, 0).bits((1, 0), (1, 0)).golomb(0, 0, 0).bits((1, 0), (2, 0))
    pictures.golomb(0, 0, 0).bits((1, 1), (1, 0), (1, 0))
    return START + sequence.unit(0x67) + START + pictures.unit(0x68)


def field(planes: list[NDArray[np.uint8]], is_bottom: bool, number: int) -> bytes:
    """A field whose blocks are stored as they are; each first one begins a new sequence."""
    head = Writer().golomb(0, 7, 0).bits((4, 0), (1, 1), (1, is_bottom))
    if not is_bottom:
        head.golomb(number % 2)
    head.bits((4, is_bottom), *([(1, 0)] if is_bottom else [(1, 0), (1, 0)])).golomb(0, 1)
    for top in range(0, planes[0].shape[0], 16):
        for left in range(0, planes[0].shape[1], 16):
            parts = [
                plane[top // unit : (top + 16) // unit, left // unit : (left + 16) // unit]
                for plane, unit in zip(planes, (1, 2, 2), strict=True)
            ]
            head.golomb(25).samples(*parts)
    return START + head.unit(0x61 if is_bottom else 0x65)


def stream() -> bytes:
    made = b""
    for number, pixels in enumerate(CLIP):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
        fields = [field([plane[place::2] for plane in planes], bool(place), number) for place in (0, 1)]
        made += parameters(*pixels.shape[:2]) + b"".join(fields)
    return made


def muxed(container: str, packets_per_frame: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(stream()), format="h264") as source, av.open(buffer, "w", format=container) as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        fields = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        assert len(fields) == 2 * len(CLIP)
        step = 2 // packets_per_frame
        for number in range(0, len(fields), step):
            packet = av.Packet(b"".join(fields[number : number + step]))
            packet.stream, packet.time_base, packet.duration = copy, Fraction(1, 50), step
            packet.pts = packet.dts = number
            packet.is_keyframe = number % 2 == 0
            target.mux_one(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("packets_per_frame", [1, 2])
@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "mpegts"])
def test_two_fields_are_one_frame(container: str, packets_per_frame: int) -> None:
    data = muxed(container, packets_per_frame)
    reader = open_frames(io.BytesIO(data), None)
    assert psnr(np.stack(list(reader)), CLIP) > 34
    info = reader.info()
    assert info.frames_in == len(CLIP)
    assert info.sampled_pts == pytest.approx(np.arange(len(CLIP)) / 25, abs=0.05 if container == "avi" else 0.001)
    for options in (MediaOptions(frames=5), MediaOptions(start_s=0.2, frames=5)):
        assert len(list(open_frames(io.BytesIO(data), None, options))) == 5
    if container == "matroska":
        arriving = ClipStream(io.BytesIO(data).read, "video/x-matroska", MediaOptions(start_s=0.2), MediaLimits())
        assert len(list(arriving)) == len(CLIP) - 5
        assert arriving.info().sampled_pts == pytest.approx(np.arange(5, len(CLIP)) / 25, abs=0.001)


def test_fields_may_begin_midway() -> None:
    whole, buffer = video(CLIP[:5], container="mpegts", options={"bf": "0", "crf": "10"}), io.BytesIO()
    with (
        av.open(io.BytesIO(whole)) as first,
        av.open(io.BytesIO(stream()), format="h264") as second,
        av.open(buffer, "w", format="mpegts") as target,
    ):
        copy = target.add_stream_from_template(first.streams.video[0], opaque=True)
        parts = [[bytes(packet) for packet in file.demux(video=0) if packet.size] for file in (first, second)]
        times = [*range(0, 10, 2), *range(10, 10 + 2 * len(CLIP))]
        for time, data in zip(times, parts[0] + parts[1], strict=True):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.pts, packet.dts = copy, Fraction(1, 50), time, time
            packet.is_keyframe = time == 0 or (time >= 10 and time % 2 == 0)
            target.mux_one(packet)
    reader = open_frames(io.BytesIO(buffer.getvalue()), None)
    assert len(list(reader)) == 5 + len(CLIP)
    assert reader.info().frames_in == 5 + len(CLIP)
    assert reader.info().sampled_pts == pytest.approx(np.arange(5 + len(CLIP)) / 25, abs=0.001)


@pytest.mark.parametrize(
    ("pixel_format", "options"),
    [
        ("yuv420p", {"x264-params": "interlaced=1:bframes=2"}),
        ("yuv444p10le", {"x264-params": "interlaced=1:cqm=jvt"}),
        ("yuv422p", {"x264-params": "interlaced=1:ref=3"}),
        ("yuv420p", {"x264-params": "bframes=2"}),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_frames_that_mix_both_are_whole(pixel_format: str, options: dict[str, str], container: str) -> None:
    data = video(CLIP, container=container, pixel_format=pixel_format, options=options)
    with av.open(io.BytesIO(data)) as file:
        pairs = FieldPairs(file.streams.video[0].codec_context.extradata)
        assert not any(pairs.completes(packet) for packet in file.demux(video=0) if packet.size)


@pytest.mark.parametrize("extradata", [None, b"", b"\1", b"\1" + bytes(7), b"\1\x64\0\x1f\xff\xe1\xff\xff\x67"])
@pytest.mark.parametrize("packet", [b"", b"\0\0\1", b"\0\0\1\x67", b"\0\0\1\x68\x80\0\0\1\x65", b"\0\0\0\4\x65\xff"])
def test_damaged_parameters_are_those_of_whole_frames(extradata: bytes | None, packet: bytes) -> None:
    assert not FieldPairs(extradata).completes(av.Packet(packet))
