"""Clips keep all of their frames, in order and in time, when time stamps of their packets are missing or wrong."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_samples import pattern, psnr, video

from media.errors import MediaError
from media.reader import open_frames
from media.timestamps import Packet, duration, from_frames, from_packets
from media.types import MediaOptions, SourceInfo
from service.settings import Limits

CLIP = pattern(30, 48, 64)
GOP = 10
B_FRAMES = {"crf": "10", "bf": "2", "g": str(GOP), "x264-params": f"b-adapt=0:scenecut=0:keyint={GOP}:min-keyint={GOP}"}
NO_B_FRAMES = {"crf": "10", "bf": "0", "g": str(GOP), "x264-params": "scenecut=0"}


def which(data: bytes, limits: Limits | None = None, **options: object) -> tuple[list[int], SourceInfo]:
    """Read a clip and name for each of its frames the one of `CLIP` that it is closest to."""
    reader = open_frames(io.BytesIO(data), limits or Limits(), MediaOptions(**options))  # type: ignore[arg-type]
    frames = [int(np.argmax([psnr(frame, original) for original in CLIP])) for frame in reader]
    return frames, reader.info()


def remuxed(data: bytes, edit: Callable[[list[av.Packet]], Iterable[av.Packet]], container: str = "matroska") -> bytes:
    """The clip with its packets edited between two containers."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        for packet in edit(packets):
            packet.stream = copy
            target.mux_one(packet)
    return buffer.getvalue()


def in_file_order(packets: list[av.Packet]) -> list[av.Packet]:
    stamps = sorted(packet.pts or 0 for packet in packets)
    for packet, stamp in zip(packets, stamps, strict=True):
        packet.pts = packet.dts = stamp
    return packets


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_stamps_in_file_order_lose_no_frame(container: str) -> None:
    data = remuxed(video(CLIP, options=B_FRAMES), in_file_order, container)
    frames, info = which(data)
    assert frames == list(range(30))
    assert info.frames_in == 30
    assert info.sampled_pts == pytest.approx(np.arange(30) / 24, abs=0.002)
    assert info.fps == pytest.approx(24, rel=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frames": 17}, list(range(17))),
        ({"frames": 4, "sampling": "uniform"}, [0, 10, 19, 29]),
        ({"start_s": 0.49, "end_s": 0.6}, [12, 13, 14]),
        ({"sampling": "stride", "stride": 7}, [0, 7, 14, 21, 28]),
    ],
)
def test_sampling_with_stamps_in_file_order(options: dict[str, object], expected: list[int]) -> None:
    data = remuxed(video(CLIP, options=B_FRAMES), in_file_order)
    assert which(data, **options)[0] == expected


def with_edits(mp4: bytes, *edits: tuple[int, int]) -> bytes:
    """The mp4 with an edit list of (frames, first frame) at 24 frames a second."""
    (unit,) = struct.unpack_from(">I", mp4, mp4.index(b"mdhd") + 16)
    (movie_unit,) = struct.unpack_from(">I", mp4, mp4.index(b"mvhd") + 16)
    entries = b"".join(
        struct.pack(">3I", frames * movie_unit // 24, first * unit // 24, 1 << 16) for frames, first in edits
    )
    made = struct.pack(">I4sI4s2I", 24 + len(entries), b"edts", 16 + len(entries), b"elst", 0, len(edits)) + entries
    start = mp4.index(b"edts") - 4
    (size,) = struct.unpack_from(">I", mp4, start)
    data = bytearray(mp4[:start] + made + mp4[start + size :])
    for name in (b"moov", b"trak"):
        at = data.index(name) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(made) - size)
    return bytes(data)


@pytest.mark.parametrize(
    "edits", [[(5, 0), (5, 18)], [(5, 18), (5, 0)], [(4, 2), (4, 2)], [(4, 0), (5, 25), (5, 13)], [(9, 11)]]
)
def test_parts_that_an_editor_joined_are_all_shown(edits: list[tuple[int, int]]) -> None:
    """Frames that those of a later part refer to come again, under stamps before all others."""
    frames, info = which(with_edits(video(CLIP, options=NO_B_FRAMES), *edits))
    assert frames == [first + number for count, first in edits for number in range(count)]
    assert info.sampled_pts == pytest.approx(np.arange(len(frames)) / 24, abs=1e-3)


def test_a_window_bounds_the_work_on_irregular_clips() -> None:
    clip = video(pattern(90, 48, 64), options=B_FRAMES)
    data = remuxed(clip, in_file_order)
    frames, info = which(data, Limits(decoded_frames=45), end_s=0.5)
    assert frames == list(range(12))
    assert info.frames_in == 90
    assert info.duration_s == pytest.approx(90 / 24, abs=0.05)
    with pytest.raises(MediaError) as caught:
        which(data, Limits(decoded_frames=45))
    assert caught.value.code == "too-many-frames"


@pytest.mark.parametrize("lost", [1, 4, 9])
@pytest.mark.parametrize("coding", [NO_B_FRAMES, B_FRAMES])
def test_frames_before_the_first_key_frame_are_not_chosen(lost: int, coding: dict[str, str]) -> None:
    data = remuxed(video(CLIP, options=coding), lambda packets: packets[lost:])
    frames, info = which(data, frames=17)
    assert frames == list(range(GOP, GOP + 17))
    assert info.frames_in == 20
    assert info.sampled_pts == pytest.approx(np.arange(17) / 24, abs=0.002)
    assert which(data, frames=3, sampling="uniform")[0] == [10, 20, 29]


def test_frames_before_the_first_key_frame_may_have_the_stamps_of_later_ones() -> None:
    def edit(packets: list[av.Packet]) -> list[av.Packet]:
        lost = av.Packet(bytes(packets[2]))
        lost.time_base, lost.pts = packets[2].time_base, packets[2].pts
        lost.dts = (packets[0].dts or 0) - 1
        return [lost, *packets]

    data = remuxed(video(CLIP, options=NO_B_FRAMES), edit)
    assert which(data)[0] == list(range(30))
    assert which(data, start_s=0.08, frames=3)[0] == [2, 3, 4]


def test_leading_frames_of_an_open_group_are_not_chosen() -> None:
    coding = {"crf": "10", "bf": "2", "x264-params": "b-adapt=0:scenecut=0:keyint=12:min-keyint=12:open-gop=1"}
    whole = video(CLIP, container="matroska", options=coding)

    def cut(packets: list[av.Packet]) -> list[av.Packet]:
        second = [index for index, packet in enumerate(packets) if packet.is_keyframe][1]
        assert any((packet.pts or 0) < (packets[second].pts or 0) for packet in packets[second:])
        return packets[second:]

    frames, info = which(remuxed(whole, cut), frames=17)
    assert frames == list(range(frames[0], frames[0] + 17))
    assert info.sampled_pts[0] == 0


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_a_clip_that_is_refreshed_bit_by_bit_can_be_entered_anywhere(container: str) -> None:
    """Decoders that begin at one of its key packets leave out the frames that are not whole yet."""
    gradual = {"crf": "10", "preset": "ultrafast", "x264-params": f"intra-refresh=1:keyint={GOP}"}
    whole = video(CLIP, container="matroska", options=gradual)
    for first in range(8, 24):
        assert which(whole, start_s=first / 24 - 0.01, frames=5)[0] == list(range(first, first + 5))
    frames, info = which(remuxed(whole, lambda packets: packets[GOP + 3 :], container), frames=6)
    assert frames == list(range(frames[0], frames[0] + 6))
    assert frames[0] > 2 * GOP
    assert info.sampled_pts == pytest.approx(np.arange(6) / 24, abs=0.002)


@pytest.mark.parametrize("begins", [(0, 0), (0, 12_000), (12_000, 0)])
@pytest.mark.parametrize("coding", [B_FRAMES, NO_B_FRAMES])
def test_transport_streams_may_be_joined(coding: dict[str, str], begins: tuple[int, int]) -> None:
    """The time goes on where the second one has other stamps; the packet at the joint may be lost."""
    parts = [video(CLIP, options=coding, container="mpegts", pts=list(range(begin, begin + 30))) for begin in begins]
    reader = open_frames(io.BytesIO(b"".join(parts)), None)
    frames = [int(np.argmax([psnr(frame, original) for original in CLIP])) for frame in reader]
    assert frames[-30:] == list(range(30))
    assert len(frames) >= 59
    assert frames[:-30] == sorted(set(frames[:-30]))
    times = reader.info().sampled_pts
    assert np.diff(times).min() > 0.04
    assert times[-1] == pytest.approx(59 / 24, abs=2 / 24)
    assert reader.info().duration_s == pytest.approx(times[-1] + 1 / 24)
    window = open_frames(io.BytesIO(b"".join(parts)), None, MediaOptions(start_s=1.5, end_s=2))
    assert len(list(window)) == sum(1.5 <= time < 2 for time in times)


@pytest.mark.parametrize("packets", [1, 7, 28])
def test_a_recording_may_begin_in_the_middle_of_a_broadcast(packets: int) -> None:
    whole = video(CLIP, options=NO_B_FRAMES, container="mpegts")
    reader = open_frames(io.BytesIO(whole[188 * packets :]), None)
    frames = [int(np.argmax([psnr(frame, original) for original in CLIP])) for frame in reader]
    assert frames == list(range(frames[0], 30))
    assert frames[0] % GOP == 0


def test_reordered_frames_of_a_slow_clip_do_not_start_anew() -> None:
    """A frame a second, of which each fourth is stored before the three that it follows."""
    stamps = [0, *(group + place for group in range(0, 40, 4) for place in (4, 2, 1, 3))]
    timeline = from_packets([Packet(stamp, stamp % 4 == 0, True, 1) for stamp in stamps], Fraction(1), True)
    assert timeline is not None
    assert timeline.times == list(range(41))


def test_times_of_decoded_frames_are_exact() -> None:
    """0.3 - 0.1 is not 0.2 in floating point, but a window from there holds the third frame."""
    made = from_frames(range(1, 40), Fraction(1, 10), 10.0, True)
    assert made.times == [number / 10 for number in range(39)]


def test_an_avi_gives_no_time_stamps_of_its_own() -> None:
    """Its packets have a place in the file only, which is not that of their frames."""
    frames, info = which(video(CLIP, options=B_FRAMES, container="avi"))
    assert frames == list(range(30))
    assert info.sampled_pts == pytest.approx(np.arange(30) / 24, abs=0.002)


def test_hidden_frames_are_not_counted() -> None:
    """One frame of a VP8 clip only serves as a reference."""
    fast = {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "2M"}

    def hide(packets: list[av.Packet]) -> Iterable[av.Packet]:
        for index, packet in enumerate(packets):
            if index == 5:
                data = bytearray(bytes(packet))
                data[0] &= ~0x10
                hidden = av.Packet(bytes(data))
                hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
                yield hidden
            else:
                yield packet

    frames, info = which(remuxed(video(CLIP, "libvpx", "webm", options=fast), hide, "webm"), frames=17)
    assert frames == [*range(5), *range(6, 18)]
    assert info.frames_in == 29


TICK = Fraction(1, 1000)


def packets(stamps: list[int | None], keys: tuple[int, ...] = (0,)) -> list[Packet]:
    return [Packet(stamp, index in keys, True, 0) for index, stamp in enumerate(stamps)]


@pytest.mark.parametrize(
    ("stamps", "keys", "reorders"),
    [
        ([0, None, 80], (0,), False),
        ([None, 40, 80], (0,), False),
        ([0, 40, 40], (0,), False),
        ([0, 40, 80], (0,), True),
        ([0, 40, 80], (), False),
    ],
)
def test_only_decoding_can_tell(stamps: list[int | None], keys: tuple[int, ...], reorders: bool) -> None:
    assert from_packets(packets(stamps, keys), TICK, reorders) is None


@given(st.permutations(range(12)), st.integers(0, 10**9))
def test_packets_of_a_sound_file_give_their_stamps(order: list[int], begin: int) -> None:
    stamps = [begin, *(begin + 40 * (number + 1) for number in order)]
    timeline = from_packets(packets(list(stamps)), TICK, order != sorted(order))
    assert timeline is not None
    assert list(timeline.marks) == sorted(stamps)
    assert timeline.times == pytest.approx(np.arange(13) * 0.04)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5000)), min_size=1, max_size=40))
def test_decoded_frames_always_get_ascending_times(stamps: list[int | None]) -> None:
    timeline = from_frames(stamps, TICK, 25.0, is_complete=True)
    assert len(timeline.times) == len(timeline.marks) == len(stamps)
    assert timeline.times[0] == 0
    assert min(np.diff(timeline.times), default=0) >= 0


def test_one_stamp_for_all_frames_says_nothing() -> None:
    assert from_frames([7] * 4, TICK, 10.0, is_complete=True).times == pytest.approx([0, 0.1, 0.2, 0.3])


@given(st.sets(st.integers(0, 29), max_size=25))
def test_missing_stamps_are_filled_at_the_rate_of_the_clip(missing: set[int]) -> None:
    stamps: list[int | None] = [None if number in missing else 40 * number for number in range(30)]
    timeline = from_frames(stamps, TICK, 25.0, is_complete=True)
    assert timeline.times == pytest.approx(np.arange(30) * 0.04)


@pytest.mark.parametrize(("fps", "step"), [(10.0, 0.1), (None, 0.04)])
@pytest.mark.parametrize("stamps", [[0, 100, 200], [None, None, None]])
def test_the_last_frame_lasts_though_nothing_says_how_long(
    fps: float | None, step: float, stamps: list[int | None]
) -> None:
    packets, base = [Packet(stamp, True, True, 0) for stamp in stamps], Fraction(1, 1000)
    timeline = from_packets(packets, base, reorders=False) or from_frames(stamps, base, fps, is_complete=True)
    assert duration(packets, base, timeline, fps) == pytest.approx(timeline.times[-1] + step)
