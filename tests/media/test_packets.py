"""Clips with packets and frames that hold something else than a picture alone."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from media_samples import pattern, picture, psnr, video
from numpy.typing import NDArray
from PIL import Image

from media.faststart import faststart
from media.frame_reader import FrameReader
from media.hidden_frames import HiddenFrames
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(6, 48, 64)


LONG = pattern(20, 48, 64)
FRAME = b"\0\0\1\xb6"  # of MPEG-4
TIME_BITS = 5  # of 24 frames a second


def opened(data: bytes, **options: Any) -> tuple[FrameReader, NDArray[np.uint8]]:
    reader = open_frames(io.BytesIO(data), MediaLimits(), MediaOptions(**options))
    return reader, np.stack(list(reader))


def changed(data: bytes, container: str, change: Callable[[int, bytes, bytes], list[bytes]]) -> bytes:
    """Return a clip each of whose packets is replaced by others: by its number, its bytes and the extradata."""
    buffer, at = io.BytesIO(), 0
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            for body in change(number, bytes(packet), bytes(stream.codec_context.extradata or b"")):
                made = av.Packet(body)
                made.stream, made.time_base, made.pts, made.dts = copy, Fraction(1, 24), at, at
                made.is_keyframe = packet.is_keyframe
                target.mux_one(made)
                at += 1
    return buffer.getvalue()


def repeating(frame: bytes) -> bytes:
    """Return the frame of MPEG-4 with the same time that is as the last one."""
    at = frame.index(FRAME) + len(FRAME)
    bits = f"{int.from_bytes(frame[at : at + 8], 'big'):064b}"
    end = bits.index("0", 2) + 1 + 1 + TIME_BITS + 1
    shown = bits[:end] + "00"
    return frame[:at] + int(shown + "1" * (-len(shown) % 8), 2).to_bytes(-(-len(shown) // 8), "big")


def with_empty_sample(mp4: bytes, place: int) -> bytes:
    """Return the mp4 with a sample whose bytes belong to the one before."""
    sizes = mp4.index(b"stsz") + 16
    before, size = struct.unpack_from(">2I", mp4, sizes + 4 * (place - 1))
    return mp4[: sizes + 4 * (place - 1)] + struct.pack(">2I", before + size, 0) + mp4[sizes + 4 * (place + 1) :]


@pytest.mark.parametrize("place", [3, 5])
def test_a_packet_without_a_picture_shows_the_last_one_for_longer(place: int) -> None:
    data = with_empty_sample(video(CLIP, "mjpeg", options={"q": "2"}, pixel_format="yuvj420p"), place)
    reader, frames = opened(data)
    kept = [index for index in range(len(CLIP)) if index != place]
    assert psnr(frames, CLIP[kept]) > 30
    assert reader.info().sampled_pts == pytest.approx([index / 24 for index in kept])
    assert reader.info().duration_s == pytest.approx(len(CLIP) / 24)
    file = io.BytesIO(data)
    arriving = io.BytesIO(b"".join(piece for span in faststart(file) for piece in span.pieces(file, 1 << 16)))
    assert np.array_equal(np.stack(list(ClipStream(arriving.read, "video/mp4", MediaOptions(), None))), frames)


def with_exif(orientation: int) -> bytes:
    """A clip of photographs, each with the EXIF of a camera."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", orientation
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as file:
        stream = file.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = CLIP.shape[2], CLIP.shape[1], "yuvj420p"
        for number, pixels in enumerate(CLIP):
            packet = av.Packet(picture(pixels, "JPEG", quality=95, exif=exif))
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 24), number, number
            packet.is_keyframe = True
            file.mux_one(packet)
    return buffer.getvalue()


def test_frames_may_have_the_exif_of_a_camera() -> None:
    assert psnr(opened(with_exif(1))[1], CLIP) > 30
    assert psnr(opened(with_exif(6))[1], np.rot90(CLIP, -1, (1, 2))) > 30


@pytest.mark.parametrize("container", ["mp4", "avi", "matroska"])
def test_frames_of_mpeg4_that_are_as_the_last_are_not_chosen(container: str) -> None:
    dropped = {5, 6, 11, 19}
    data = changed(
        video(LONG, "mpeg4", options={"g": "1", "b": "4000000"}),
        container,
        lambda number, body, _: [repeating(body) if number in dropped else body],
    )
    kept = [index for index in range(len(LONG)) if index not in dropped]
    reader, frames = opened(data)
    assert psnr(frames, LONG[kept]) > 30
    assert reader.info().frames_in == len(kept)
    assert psnr(opened(data, frames=13)[1], LONG[kept[:13]]) > 30
    assert psnr(opened(data, start_s=0.2, frames=3)[1], LONG[7:10]) > 30


def test_frames_that_share_a_packet_come_with_the_marks_behind_it() -> None:
    with av.open(io.BytesIO(video(LONG, "mpeg4", options={"g": "8"}))) as file:
        stream = file.streams.video[0]
        first, second, third = [bytes(packet) for packet in file.demux(stream) if packet.size][:3]
        hidden = HiddenFrames("mpeg4", stream.codec_context.extradata)
    packets = [first, second + third, repeating(third), repeating(third), second]
    assert [hidden.hides(packet) for packet in packets] == [False, False, False, True, False]
    assert not HiddenFrames("mpeg4", None).hides(repeating(third))


def unit(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def parameters(extradata: bytes) -> bytes:
    size = int.from_bytes(extradata[6:8], "big")
    pictures = extradata[9 + size :]
    return unit(extradata[8 : 8 + size]) + unit(pictures[2 : 2 + int.from_bytes(pictures[:2], "big")])


KNOWN = {"libx264": ("bf", "crf"), "libx265": ("crf", "x265-params"), "mpeg4": ("b",)}


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(
    ("codec", "others"),
    [
        ("libx264", lambda _: unit(b"\x06\x05\x12" + bytes(16) + b"hi\x80")),
        ("libx264", lambda _: unit(b"\x09\xf0")),
        ("libx264", parameters),
        ("mpeg4", lambda extradata: extradata),
        ("libx265", lambda _: unit(b"\x4e\x01\x05\x12" + bytes(16) + b"hi\x80")),
    ],
)
def test_packets_without_any_part_of_a_picture_are_no_frames(
    container: str, codec: str, others: Callable[[bytes], bytes]
) -> None:
    options = {"bf": "0", "crf": "10", "b": "4M", "x265-params": "log-level=none:bframes=0"}
    plain = video(LONG, codec, options={name: options[name] for name in KNOWN[codec]})
    data = changed(
        plain, container, lambda number, body, extradata: [others(extradata), body] if number % 7 == 3 else [body]
    )
    reader, frames = opened(data, frames=17)
    assert psnr(frames, LONG[:17]) > 30
    assert len(opened(data)[1]) == len(LONG)
    assert reader.info().sampled_pts[:4] == pytest.approx([0, 1 / 24, 2 / 24, 4 / 24], abs=0.001)
