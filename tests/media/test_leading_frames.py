"""Clips that begin with a key frame which is shown after frames that follow it."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from media_samples import pattern, psnr, video

from media.key_frames import LeadingFrames
from media.limits import MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream

CLIP = pattern(30, 48, 64)
X265 = {"x265-params": "keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0:log-level=none:{}", "crf": "8"}
MPEG2 = {"bf": "2", "g": "10", "b": "4000000", "sc_threshold": "1000000000"}
GROUP = b"\0\0\1\xb8"


def cut(data: bytes, closes: bool = False) -> tuple[bytes, int]:
    """Return a clip as Matroska from its second key frame on, and how many frames shown before that follow it.

    Args:
        closes: groups of MPEG-2 say that they refer to nothing in front of them.
    """
    buffer = io.BytesIO()
    stamps: list[int] = []
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="matroska") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [index for index, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second:]:
            assert packet.pts is not None
            stamps.append(packet.pts)
            body = bytearray(bytes(packet))
            at = body.find(GROUP)
            if closes and at >= 0:
                body[at + 7] |= 0x40
            made = av.Packet(bytes(body))
            made.stream, made.time_base, made.pts, made.dts = copy, packet.time_base, packet.pts, packet.dts
            made.is_keyframe, made.duration = packet.is_keyframe, packet.duration
            target.mux_one(made)
    return buffer.getvalue(), sum(stamp < stamps[0] for stamp in stamps)


@pytest.mark.parametrize("options", [MediaOptions(), MediaOptions(frames=1), MediaOptions(start_s=0.05, frames=4)])
def test_those_that_refer_to_nothing_before_it_are_shown(options: MediaOptions) -> None:
    data, leading = cut(
        video(CLIP, "libx265", options={name: value.format("open-gop=0:radl=2") for name, value in X265.items()})
    )
    assert leading == 2
    wanted = CLIP[8:] if options.frames is None else CLIP[8:9] if options.frames == 1 else CLIP[10:14]
    reader = open_frames(io.BytesIO(data), MediaLimits(), options)
    frames = np.stack(list(reader))
    assert psnr(frames, wanted) > 30
    assert reader.info().frames_in == 22
    arriving = ClipStream(io.BytesIO(data).read, "video/x-matroska", options, None)
    assert np.array_equal(np.stack(list(arriving)), frames)
    assert arriving.info().sampled_pts == pytest.approx(reader.info().sampled_pts)


@pytest.mark.parametrize("codec", ["libx265", "mpeg2video"])
def test_those_that_do_are_not_chosen(codec: str) -> None:
    options = {name: value.format("open-gop=1") for name, value in X265.items()} if codec == "libx265" else MPEG2
    data, leading = cut(video(CLIP, codec, "mpegts" if codec == "mpeg2video" else "mp4", options=options))
    assert leading > 0
    frames = np.stack(list(open_frames(io.BytesIO(data), MediaLimits())))
    assert psnr(frames, CLIP[-len(frames) :]) > 30
    arriving = ClipStream(io.BytesIO(data).read, "video/x-matroska", MediaOptions(), None)
    assert np.array_equal(np.stack(list(arriving)), frames)


def test_groups_of_mpeg_may_be_closed() -> None:
    made = video(CLIP, "mpeg2video", "mpegts", options=MPEG2)
    (data, leading), (opened, _) = cut(made, closes=True), cut(made)
    frames, others = (np.stack(list(open_frames(io.BytesIO(clip), MediaLimits()))) for clip in (data, opened))
    assert len(frames) == len(others) + leading
    assert np.array_equal(frames[leading:], others)


@pytest.mark.parametrize(("kind", "expected"), [(1, False), (2, True), (3, False), (8, False)])
@pytest.mark.parametrize("extradata", [None, b"\xff"])
def test_kinds_of_vvc(kind: int, expected: bool, extradata: bytes | None) -> None:
    unit = bytes([0, kind << 3 | 1]) + bytes(4)
    parameters = bytes([0, 20 << 3 | 1, 0])
    packet = b"".join(
        (b"\0\0\1" if extradata is None else len(part).to_bytes(4, "big")) + part for part in (parameters, unit)
    )
    assert LeadingFrames("vvc", extradata).can_be_decoded(packet) == expected
