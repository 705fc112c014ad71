"""Clips through FFmpeg: surveyed by their packets, then decoded under limits, one frame at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from media import details, timestamps
from media.container import (
    check_encryption,
    codec_name,
    corrupt,
    decoder,
    open_container,
    refusing_damage,
    video_stream,
)
from media.errors import MediaError
from media.frame_choice import choose_frames
from media.frame_conversion import FrameConversion
from media.frame_reader import FrameReader
from media.h264 import HEAD_BYTES, recovery_frames
from media.h264_fields import FieldPairs
from media.hidden_frames import HiddenFrames
from media.key_frames import KNOWN_BY_CONTENT, LeadingFrames, is_key
from media.limits import check_decoded, check_duration, check_kept, check_picture
from media.presentation import Presentation, presentation
from media.resize import plan
from media.timestamps import MAX_REORDERED_FRAMES, Packet, Timeline
from media.truncation import is_whole
from media.types import MediaOptions, Preprocess, SampleWindow, SourceInfo, nearest_rate

if TYPE_CHECKING:
    from media.limits import MediaLimits

# Two packets may hold the fields of one frame; decoders drop damaged frames silently.
_MAX_PACKETS_PER_FRAME = 4
_MAX_PACKETS_PER_REFERENCE = 4  # with the frames between
_JOINED_TYPES = ("video/mp2t", "video/mpeg")  # of which parts may simply follow one another
# What a packet states for those after it too.
_LASTING: tuple[Literal["new_extradata", "palette"], ...] = ("new_extradata", "palette")


@dataclass(frozen=True)
class Survey:
    """The result of one pass over the packets, before anything is decoded.

    Args:
        packets: of the stream, in file order.
        base: seconds in a unit of the time stamps.
        codec: canonical codec name.
        height, width: coded size by the header, pixels.
        stated: how it is to be shown.
        fps: rate by the header, frames per second; None if it states none.
        reorders: the decoder may put frames into another order.
    """

    packets: list[Packet]
    base: Fraction
    codec: str
    height: int
    width: int
    stated: Presentation
    fps: float | None
    reorders: bool


class ClipReader(FrameReader):
    """Frames of the video stream of a file that players show; cover pictures do not count. Pixels come out square.

    Args:
        file: the open file; its name, if it has one, is never looked at.
        media_type: from the file's content.
        options: window, sampling and size.
        limits: bounds, None for trusted files.
        window: position of the crop and of the kept frames, and their rate.

    Raises:
        MediaError: anything wrong with the file, or a limit that it breaks.
    """

    is_video = True

    def __init__(
        self, file: BinaryIO, media_type: str, options: MediaOptions, limits: MediaLimits | None, window: SampleWindow
    ) -> None:
        self._file, self._media_type, self._options, self._limits = file, media_type, options, limits
        if not is_whole(file, media_type):
            self._fail("it is cut off")
        with self._open() as (container, stream):
            self._survey = self._read_packets(container, stream)
        self._timeline = self._read_times()
        self._duration_s = timestamps.duration(
            self._survey.packets, self._survey.base, self._timeline, self._survey.fps
        )
        self._check_duration()
        self._chosen = choose_frames(self._timeline.times, options, window)
        self.expected = len(self._chosen)
        self._sampled = [self._timeline.times[index] for index in self._chosen]
        self._conversion = FrameConversion(options, limits, self._survey.stated, window.crop_position)
        self._first_packet = self._key_packet_before(self._timeline.marks[self._chosen[0]])
        self._check_cost()

    @property
    def preprocess(self) -> Preprocess:
        plan = self._conversion.plan
        return Preprocess() if plan is None else plan.preprocess

    def info(self) -> SourceInfo:
        survey, times = self._survey, self._timeline.times
        plan = self._conversion.plan
        height, width = (survey.height, survey.width) if plan is None else (plan.height, plan.width)
        span = times[-1]
        return SourceInfo(
            media_type=self._media_type,
            codec=survey.codec,
            width=width,
            height=height,
            frames_in=len(times) if self._timeline.is_complete else len(survey.packets),
            fps=nearest_rate((len(times) - 1) / span, survey.fps) if span > 0 else survey.fps,
            duration_s=self._duration_s,
            sampled_pts=list(self._sampled),
        )

    def details(self) -> details.FileDetails:
        assert self._conversion.details is not None, "read its frames first"
        return self._conversion.details

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        timeline = self._timeline
        targets = [timeline.marks[index] for index in self._chosen]
        position = 0  # of the next target
        self._sampled = []
        with self._open() as (container, stream):
            for number, frame in enumerate(self._decode(container, stream, self._first_packet)):
                self._conversion.note(frame)
                mark = number if timeline.by_number else frame.pts
                if mark is None or mark < targets[position]:
                    continue
                shown = self._conversion.pixels(container, frame)
                if not position:  # headers may state a smaller size
                    check_kept(self._limits, self.expected, shown.shape[0] * shown.shape[1])
                copies = bisect_right(targets, targets[position]) - position
                self._sampled += [timeline.times[bisect_left(timeline.marks, mark)]] * copies
                yield from repeat(shown, copies)
                # A frame that never came must not shift the ones after it.
                position = max(position + copies, bisect_right(targets, mark))
                if position >= len(targets):
                    return
        if position == 0:
            self._fail("none of its frames can be decoded")

    def _check_duration(self) -> None:
        """Refuse a long clip, unless the window leaves little of it."""
        start, end = self._options.start_s or 0.0, self._options.end_s
        stop = self._duration_s if end is None else min(end, self._duration_s)
        check_duration(self._limits, stop - start)

    def _check_cost(self) -> None:
        """Refuse by the packets alone what decoding would refuse after much work."""
        survey, last = self._survey, self._chosen[-1]
        if self._timeline.by_number:
            needed = last + 1
        else:
            mark = self._timeline.marks[last]
            needed = sum((packet.pts or 0) <= mark for packet in survey.packets[self._first_packet :])
        check_decoded(self._limits, needed, survey.height * survey.width, is_video=True)
        shown = survey.stated.shown(survey.height, survey.width)
        check_picture(self._limits, *shown, is_video=True)
        height, width = shown if self._options.size is None else self._options.size
        if all(shown):  # damaged headers may state none
            plan(*shown, self._options.size, self._options.fit, self._limits)
        check_kept(self._limits, self.expected, height * width)

    def _key_packet_before(self, mark: int) -> int:
        """Return the index of the packet from which decoding must begin to show the frame at `mark`."""
        if self._timeline.by_number:
            return self._first_key()
        packets = self._survey.packets
        first, last = self._first_key(), len(packets) - 1
        # Edit lists repeat packets for the frames that others refer to, under earlier stamps than before.
        shown = next(
            index for index in range(first, last + 1) if packets[index].is_shown and packets[index].pts == mark
        )

        def is_whole_at(index: int) -> bool:
            whole = packets[min(index + packets[index].recovers_after * _MAX_PACKETS_PER_REFERENCE, last)]
            return max(packets[index].pts or 0, whole.pts or 0) <= mark

        keys = (index for index in range(first, shown + 1) if packets[index].is_key and is_whole_at(index))
        return max(keys, default=first)  # a frame that is shown before the first

    def _read_packets(self, container: Any, stream: Any) -> Survey:
        limits, context = self._limits, stream.codec_context
        codec, stated = codec_name(stream), presentation(stream)
        packets: list[Packet] = []
        extradata = context.extradata  # which PyAV copies each time
        fields = FieldPairs(extradata) if codec == "h264" else None
        hidden, leading, begin = HiddenFrames(codec, extradata), LeadingFrames(codec, extradata), None
        for packet in self._packets(container, stream):
            if packet.size == 0:
                if packets:  # the last frame is shown for longer
                    packets[-1] = replace(packets[-1], duration=packets[-1].duration + (packet.duration or 0))
                continue
            check_encryption(packet)
            completes = fields is not None and fields.completes(packet)
            is_shown = not (hidden.hides(packet) or packet.is_discard or completes)
            may_be_gradual = codec == "h264" and packet.is_keyframe
            can_begin = not completes and is_key(codec, packet, extradata)
            recovery = recovery_frames(bytes(memoryview(packet)[:HEAD_BYTES]), extradata) if may_be_gradual else 0
            begin = packet.pts if begin is None and can_begin else begin
            is_before = begin is not None and packet.pts is not None and packet.pts <= begin
            leads = is_before and leading.can_be_decoded(packet)
            packets.append(Packet(packet.pts, can_begin, is_shown, packet.duration or 0, recovery, leads))
            if completes and packet.pts is not None:
                packets[-2] = replace(packets[-2], duration=packets[-2].duration + packets[-1].duration)
            if limits is not None and len(packets) > limits.demuxed_packets:
                raise MediaError(
                    "decode-budget",
                    f"At most {limits.demuxed_packets} packets are read from one file.",
                    limit=limits.demuxed_packets,
                    actual=len(packets),
                )
        if not any(packet.is_shown for packet in packets):
            raise MediaError("no-video-stream", "The video stream of the file holds no frames.")
        is_doubtful = not (context.codec.intra_only or codec in KNOWN_BY_CONTENT)
        if is_doubtful and all(packet.is_key for packet in packets):
            packets[1:] = [replace(packet, is_key=False) for packet in packets[1:]]
        return Survey(
            packets=packets,
            base=stream.time_base,
            codec=codec,
            height=context.height,
            width=context.width,
            stated=stated,
            fps=float(stream.average_rate or 0) or None,
            reorders=context.has_b_frames,
        )

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield whole packets; where transport streams were joined, one may be left over."""
        for packet in container.demux(stream):
            if not packet.is_corrupt:
                yield packet
            elif self._media_type != "video/mp2t":
                self._fail("it is cut off")

    def _read_times(self) -> Timeline:
        survey = self._survey
        # AVI holds no time stamps, and those that FFmpeg makes up for frames that share a packet are out of order.
        is_made_up = survey.reorders and self._media_type == "video/x-msvideo"
        is_joined = self._media_type in _JOINED_TYPES and timestamps.jumps(survey.packets, survey.base)
        timeline = None
        if not (is_made_up or is_joined):
            timeline = timestamps.from_packets(survey.packets, survey.base, survey.reorders)
        return self._decode_times(is_joined) if timeline is None else timeline

    def _decode_times(self, is_joined: bool) -> Timeline:
        """Decode the clip up to the end of the window to learn its frames; of one that was joined, all."""
        end, base = None if is_joined else self._options.end_s, self._survey.base
        stamps: list[int | None] = []
        late = 0
        with self._open() as (container, stream):
            for frame in self._decode(container, stream, self._first_key()):
                stamps.append(frame.pts)
                if end is not None and None not in (frame.pts, stamps[0]):
                    late += (frame.pts - (stamps[0] or 0)) * base >= end
                if late > MAX_REORDERED_FRAMES:
                    break
        if not stamps:
            self._fail("none of its frames can be decoded")
        is_complete = late <= MAX_REORDERED_FRAMES
        if is_complete and len(stamps) * _MAX_PACKETS_PER_FRAME < self._decodable_packets():
            self._fail("most of its frames are damaged")
        return timestamps.from_frames(stamps, base, self._survey.fps, is_complete, is_joined)

    def _decodable_packets(self) -> int:
        """Count the packets from the first key frame on."""
        return sum(packet.is_shown for packet in self._survey.packets[self._first_key() :])

    def _first_key(self) -> int:
        """Return the index of the first packet that decoding can begin at; 0 if none says so."""
        return next((index for index, packet in enumerate(self._survey.packets) if packet.is_key), 0)

    def _decode(self, container: Any, stream: Any, first_packet: int) -> Iterator[Any]:
        limits = self._limits
        context = decoder(stream, limits, timestamps.may_reorder(self._survey.packets, self._survey.reorders))
        frames = pixels = 0
        skipped: dict[str, Any] = {}
        # Decoders would take an empty one for the end.
        packets = (packet for packet in self._packets(container, stream) if packet.size)
        for index, packet in enumerate(chain(packets, (None,))):
            if packet is not None and index < first_packet:
                skipped |= {kind: packet.get_sidedata(kind) for kind in _LASTING if packet.has_sidedata(kind)}
                continue
            for kind, data in skipped.items():
                if not packet.has_sidedata(kind):
                    packet.set_sidedata(data)
            skipped.clear()
            for frame in context.decode(packet):
                frames += 1
                pixels = max(pixels, frame.height * frame.width)
                check_picture(limits, frame.height, frame.width, is_video=True)
                check_decoded(limits, frames, pixels, is_video=True)
                if frame.is_corrupt:
                    self._fail("a frame is damaged")
                yield frame

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """Yield the container and its video stream; every failure inside becomes a problem."""
        self._file.seek(0)
        with refusing_damage(self._media_type), open_container(self._file, self._limits) as container:
            stream = video_stream(container, self._limits)
            context = stream.codec_context
            check_picture(self._limits, context.height, context.width, is_video=True)
            yield container, stream

    def _fail(self, why: str) -> NoReturn:
        raise corrupt(self._media_type, why)
