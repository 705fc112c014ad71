"""Clips that are decoded while they arrive: one pass without a survey, in constant memory however long they are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from media.container import (
    check_encryption,
    codec_name,
    corrupt,
    decoder,
    open_container,
    refusing_damage,
    video_stream,
)
from media.details import FileDetails
from media.errors import MediaError
from media.frame_choice import check_streams
from media.frame_conversion import FrameConversion
from media.frame_reader import FrameReader
from media.h264_fields import FieldPairs
from media.hidden_frames import HiddenFrames
from media.key_frames import LEADING_CODECS, is_key
from media.limits import check_picture
from media.presentation import presentation
from media.timestamps import MAX_REORDERED_FRAMES
from media.truncation import PassingFile
from media.types import DEFAULT_FPS, MediaOptions, Preprocess, SourceInfo, nearest_rate

if TYPE_CHECKING:
    from media.limits import MediaLimits

# Stamps whose frames have not come: decoders hold back fewer, but damaged streams may be without frames for ever.
_MAX_WAITING = 4 * MAX_REORDERED_FRAMES
MAX_TIMES = 2048  # that a description holds; those of a longer clip are left out


class ClipStream(FrameReader):
    """The frames that `ClipReader` would keep, in order, of a clip whose end is not there yet.

    What the end decides cannot be asked for: uniform sampling. The number of frames is known after the last.

    Args:
        read: returns at most so many bytes of the file; none at its end. It may wait.
        media_type: from the file's first bytes.
        options: size, fit, window, and the first frames or every n-th.
        limits: bounds, None for trusted files. Those of a whole file do not apply.

    Raises:
        MediaError: "unsupported-media-type" or "invalid-options". Iterating raises it for anything wrong with the file.
    """

    is_video = True

    def __init__(
        self, read: Callable[[int], bytes], media_type: str, options: MediaOptions, limits: MediaLimits | None
    ) -> None:
        check_streams(media_type, options)
        self._file, self._media_type = PassingFile(read, media_type), media_type
        self._options, self._limits = options, limits
        self._conversion: FrameConversion | None = None
        self._codec, self._coded = "unknown", (0, 0)
        self._rate: float | None = None
        self._duration_s = self._time = 0.0
        self._seen = self._kept = 0
        self._times: list[float] = []
        self._first = self._last = 0.0

    @property
    def preprocess(self) -> Preprocess:
        plan = None if self._conversion is None else self._conversion.plan
        return Preprocess() if plan is None else plan.preprocess

    def info(self) -> SourceInfo:
        plan = None if self._conversion is None else self._conversion.plan
        height, width = self._coded if plan is None else (plan.height, plan.width)
        times = self._times if self._kept <= MAX_TIMES else []
        return SourceInfo(
            self._media_type, self._codec, width, height, self._seen, self._fps, self._duration_s or None, list(times)
        )

    @property
    def _fps(self) -> float | None:
        return nearest_rate((self._seen - 1) / self._time, self._rate) if self._time > 0 else self._rate

    @property
    def kept_fps(self) -> float | None:
        """Rate of the kept frames, frames per second; None if nothing states it."""
        if self._kept > 1 and self._last > self._first:
            return nearest_rate((self._kept - 1) / (self._last - self._first), self._fps)
        return self._fps

    def details(self) -> FileDetails:
        assert self._conversion is not None
        assert self._conversion.details is not None, "read its frames first"
        return self._conversion.details

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        options = self._options
        with refusing_damage(self._media_type), open_container(self._file, self._limits) as container:
            stream = video_stream(container, self._limits)
            context = stream.codec_context
            check_picture(self._limits, context.height, context.width, is_video=True)
            self._codec, self._coded = codec_name(stream), (context.height, context.width)
            self._rate = float(stream.average_rate or 0) or None
            self._conversion = FrameConversion(options, self._limits, presentation(stream))
            inside = 0
            for time, frame in self._timed(container, stream):
                self._conversion.note(frame)
                if options.end_s is not None and time >= options.end_s:
                    break
                if time < (options.start_s or 0.0):
                    continue
                inside += 1
                if (inside - 1) % options.stride:
                    continue
                self._note(time)
                yield self._conversion.pixels(container, frame)
                if self._kept == options.frames:
                    break
            else:
                self._check_end()
        if not self._kept:
            raise MediaError("invalid-options", f"No frame is between start_s and end_s; the clip has {self._seen}.")

    def _note(self, time: float) -> None:
        if not self._kept:
            self._first = time
        self._kept += 1
        self._last = time
        if self._kept <= MAX_TIMES:
            self._times.append(time)

    def _check_end(self) -> None:
        if not self._file.is_whole():
            raise corrupt(self._media_type, "it is cut off")
        if not self._seen:
            raise corrupt(self._media_type, "none of its frames can be decoded")

    def _timed(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        """Yield the frames that are meant to be seen, with their seconds from the first."""
        begin: int | None = None
        zero: int | None = None
        step = 1 / (self._rate or DEFAULT_FPS)
        for pts, frame in self._decode(container, stream):
            if not self._seen:
                begin = None if self._codec in LEADING_CODECS else self._key_pts
                zero = pts if pts is not None and (begin is None or pts >= begin) else begin
            if pts is not None and begin is not None and pts < begin:
                continue  # refers to frames that the file does not hold
            self._time = self._seen * step
            if pts is not None and zero is not None:
                self._time = float((pts - zero) * stream.time_base)
            self._seen += 1
            self._duration_s = self._time + (float(frame.duration * stream.time_base) if frame.duration else step)
            yield self._time, frame

    def _decode(self, container: Any, stream: Any) -> Iterator[tuple[int | None, Any]]:
        """Yield decoded frames with their time stamps."""
        limits, context = self._limits, decoder(stream, self._limits, may_reorder=True)
        stamps = _Stamps(stream.codec_context.has_b_frames)
        extradata = stream.codec_context.extradata  # which PyAV copies each time
        fields = FieldPairs(extradata) if self._codec == "h264" else None
        hidden = HiddenFrames(self._codec, extradata)
        self._key_pts: int | None = None
        started = False
        # Decoders would take an empty packet for the end.
        packets = (packet for packet in container.demux(stream) if packet.size)
        for packet in chain(packets, (None,)):
            if packet is not None:
                if packet.is_corrupt:
                    raise corrupt(self._media_type, "it is cut off")
                check_encryption(packet)
                if not started:
                    if not is_key(self._codec, packet, extradata):
                        continue
                    started, self._key_pts = True, packet.pts
                if not (hidden.hides(packet) or (fields is not None and fields.completes(packet))):
                    stamps.note(packet)
            for frame in context.decode(packet):
                check_picture(limits, frame.height, frame.width, is_video=True)
                if limits is not None and self._seen >= limits.stream_frames:
                    raise MediaError(
                        "too-many-frames",
                        f"A stream may have {limits.stream_frames} frames. Send the rest as another one.",
                        limit=limits.stream_frames,
                    )
                if frame.is_corrupt:
                    raise corrupt(self._media_type, "a frame is damaged")
                yield stamps.of(frame), frame


class _Stamps:
    """The time stamps of decoded frames.

    Those of packets that ascend through a stream whose frames are stored in another order than they are shown cannot
    be theirs: they belong to the frames in the order of showing, as `media.timestamps` finds for whole files.

    Args:
        reorders: the decoder may put frames into another order.
    """

    def __init__(self, reorders: bool) -> None:
        self._ascends, self._highest = reorders, -math.inf
        self._waiting: deque[int] = deque()

    def note(self, packet: Any) -> None:
        """Take the stamp of a packet that is about to be decoded."""
        self._ascends = self._ascends and packet.pts is not None and packet.pts > self._highest
        if self._ascends:
            self._highest = packet.pts
            if not packet.is_discard:
                self._waiting.append(packet.pts)
                self._ascends = len(self._waiting) <= _MAX_WAITING

    def of(self, frame: Any) -> int | None:
        """Return the stamp of the next frame."""
        return self._waiting.popleft() if self._ascends and self._waiting else frame.pts
