"""Clips of VP8 and VP9 with alpha, of which a packet may lack some, or be damaged."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from media_samples import pattern, psnr, video
from numpy.typing import NDArray

from media.errors import MediaError
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CODECS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
OPTIONS = {"deadline": "realtime", "auto-alt-ref": "0", "crf": "4", "b": "4M"}
SIZE = 48, 64
CLIP = pattern(4, *SIZE)
KEY_BITS = 36  # of a key frame of VP9 with 4:2:0 and 8 bits, before its size
BLOCK_ADDITIONS = b"\x75\xa1"
LARGEST = 16383


def clip(codec: str, alpha: int = 128) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as file:
        stream = file.add_stream(CODECS[codec], rate=10, options=OPTIONS)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuva420p"
        for number, pixels in enumerate(CLIP):
            shown = np.dstack([pixels, np.full(SIZE, alpha, np.uint8)])
            frame = av.VideoFrame.from_ndarray(shown, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    return np.stack(list(open_frames(io.BytesIO(data), MediaLimits())))


def packets(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the packets of a clip with those of its alpha."""
    with av.open(io.BytesIO(data)) as file:
        found = [packet for packet in file.demux(video=0) if packet.size]
        return [(bytes(packet), bytes(packet.get_sidedata("matroska_block_additional"))[8:]) for packet in found]


def resized(codec: str, frame: bytes, side: int) -> bytes:
    """Return a key frame that states another size."""
    if codec == "vp8":
        return frame[:6] + struct.pack("<2H", side, side) + frame[10:]
    bits = f"{int.from_bytes(frame, 'big'):0{8 * len(frame)}b}"
    changed = bits[:KEY_BITS] + 2 * f"{side - 1:016b}" + bits[KEY_BITS + 32 :]
    return int(changed, 2).to_bytes(len(frame), "big")


@pytest.mark.parametrize("codec", CODECS)
def test_alpha_stands_on_white(codec: str) -> None:
    assert psnr(read(clip(codec)), (CLIP.astype(np.float64) * 128 + 255 * 127) / 255) > 34


@pytest.mark.parametrize("codec", CODECS)
def test_frames_without_alpha_are_opaque(codec: str) -> None:
    data = clip(codec)
    first, second, *others = data.split(BLOCK_ADDITIONS)
    unknown = b"\x75\xaf"  # which readers pass over
    frames = read(first + BLOCK_ADDITIONS + second + b"".join(unknown + part for part in others))
    assert np.array_equal(frames[0], read(data)[0])
    assert psnr(frames[1:], CLIP[1:]) > 32
    plain = video(CLIP, CODECS[codec], "webm", options=OPTIONS, fps=10)
    assert psnr(frames[1:], read(plain)[1:]) > 34


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_frame_takes_no_memory_that_its_clip_does_not(codec: str, part: int) -> None:
    data = clip(codec)
    frame = packets(data)[0][part]
    damaged = data.replace(frame, resized(codec, frame, LARGEST))
    for limits in (None, MediaLimits()):
        with pytest.raises(MediaError, match="corrupt-media"):
            list(open_frames(io.BytesIO(damaged), limits))
        with pytest.raises(MediaError, match="corrupt-media"):
            list(ClipStream(io.BytesIO(damaged).read, "video/webm", MediaOptions(), limits))
