"""Sizes that frames of VP8 and VP9 state, which bound the memory of their decoders with alpha."""

from __future__ import annotations

import io
import struct

import av
import pytest
from media_samples import pattern, video

from media.errors import MediaError
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream
from media.vpx import frame_sizes

CODECS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
OPTIONS = {"deadline": "realtime", "auto-alt-ref": "0"}
KEY_BITS = 36  # of a key frame of VP9 with 4:2:0 and 8 bits, before its size
LARGEST = 16383


def packets(codec: str) -> list[tuple[bytes, bytes]]:
    """Encode a clip, and return its packets with those of its alpha."""
    data = clip(codec)
    with av.open(io.BytesIO(data)) as file:
        found = [packet for packet in file.demux(video=0) if packet.size]
        return [(bytes(packet), bytes(packet.get_sidedata("matroska_block_additional"))[8:]) for packet in found]


def clip(codec: str) -> bytes:
    return video(pattern(3, 48, 64), CODECS[codec], "webm", options=OPTIONS, pixel_format="yuva420p")


def resized(codec: str, frame: bytes, height: int, width: int) -> bytes:
    """Return a key frame that states another size."""
    if codec == "vp8":
        return frame[:6] + struct.pack("<2H", width, height) + frame[10:]
    bits = f"{int.from_bytes(frame, 'big'):0{8 * len(frame)}b}"
    changed = bits[:KEY_BITS] + f"{width - 1:016b}{height - 1:016b}" + bits[KEY_BITS + 32 :]
    return int(changed, 2).to_bytes(len(frame), "big")


@pytest.mark.parametrize("codec", CODECS)
def test_the_first_frame_states_its_size(codec: str) -> None:
    (colours, alpha), *later = packets(codec)
    assert list(frame_sizes(codec, colours)) == list(frame_sizes(codec, alpha)) == [(48, 64)]
    assert list(frame_sizes(codec, resized(codec, colours, 700, 9))) == [(700, 9)]
    assert not [size for pair in later for part in pair for size in frame_sizes(codec, part)]
    for end in range(12):
        assert list(frame_sizes(codec, colours[:end])) in ([], [(48, 64)])


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_far_larger_than_its_clip_is_refused_before_it_takes_memory(codec: str, part: int) -> None:
    frame = packets(codec)[0][part]
    damaged = clip(codec).replace(frame, resized(codec, frame, LARGEST, LARGEST))
    with pytest.raises(MediaError, match="corrupt-media") as caught:
        list(open_frames(io.BytesIO(damaged), None))
    assert "far larger" in str(caught.value.__cause__)
    for reader in (
        open_frames(io.BytesIO(damaged), MediaLimits()),
        ClipStream(io.BytesIO(damaged).read, "video/webm", MediaOptions(), MediaLimits()),
    ):
        with pytest.raises(MediaError, match="too-many-pixels"):
            list(reader)


def test_several_frames_may_share_a_packet() -> None:
    frame = packets("vp9")[0][0]
    other = resized("vp9", frame, 90, 80)
    mark = bytes([0b11001001])  # two frames, whose lengths have two bytes
    index = mark + struct.pack("<2H", len(frame), len(other)) + mark
    assert list(frame_sizes("vp9", frame + other + index)) == [(48, 64), (90, 80)]


@pytest.mark.parametrize(
    ("bits", "sizes"),
    [
        # Inter frames: a size of its own, and that of the second reference.
        ("10000111" + 8 * "0" + 12 * "0" + "000" + f"{639:016b}{359:016b}", [(360, 640)]),
        ("10000111" + 8 * "0" + 12 * "0" + "01" + 40 * "1", []),
        # Hidden, of key blocks alone, in RGB.
        ("10100100100" + f"{0x498342:024b}" + "1110" + 8 * "0" + f"{9:016b}{4:016b}", [(5, 10)]),
        ("10001010" + 60 * "1", []),  # shows a frame from before
    ],
)
def test_frames_that_are_no_key_frames_may_state_a_size(bits: str, sizes: list[tuple[int, int]]) -> None:
    data = int(bits.ljust(8 * 40, "0"), 2).to_bytes(40, "big")
    assert list(frame_sizes("vp9", data)) == sizes
