"""Videos through FFmpeg: opened so that nothing but the given bytes is ever read, decoded under limits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from media.errors import MediaError
from media.frame_reader import FrameReader, choose
from media.limits import check_decoded, check_duration, check_kept, check_picture
from media.resize import Plan, plan
from media.truncation import is_whole
from media.types import MediaOptions, Preprocess, SourceInfo, View, rate

if TYPE_CHECKING:
    from media.limits import MediaLimits

CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
DEMUXERS = {"video/mp4": "mov", "video/quicktime": "mov", "video/webm": "matroska", "video/x-matroska": "matroska"}

# Decoders round sides up to whole blocks before they compare with max_pixels; the exact limit is ours to check.
_BLOCK_FACTOR, _BLOCK_PIXELS = 1.25, 128 * 128
_UNSPECIFIED_COLORSPACE = 2
_HD_HEIGHT = 720
_MATRIX = Struct("=9i")  # FFmpeg keeps display matrices in the byte order of the machine


@dataclass(frozen=True)
class Survey:
    """The result of one pass over the packets, before anything is decoded.

    Args:
        pts: time stamps of the shown frames, ascending, in units of `time_base` seconds.
        order: (time stamp, is a key frame) of every packet in file order.
        codec: canonical codec name.
        height, width: coded size by the header, pixels.
        aspect: width of a coded pixel over its height.
        fps: average rate, frames per second; None if nothing tells it.
        duration_s: seconds.
    """

    pts: list[int]
    order: list[tuple[int, bool]]
    time_base: Fraction
    codec: str
    height: int
    width: int
    aspect: Fraction
    fps: float | None
    duration_s: float


class ClipReader(FrameReader):
    """Frames of the first video stream of a file; cover pictures do not count. Pixels come out square.

    Args:
        file: the open file; its name, if it has one, is never looked at.
        media_type: one of `DEMUXERS`, from the file's content.
        options: window, sampling and size.
        limits: bounds, None for trusted files.
        view: place of the crop and of the clip, and its rate.

    Raises:
        MediaError: anything wrong with the file, or a limit that it breaks.
    """

    is_video = True

    def __init__(
        self, file: BinaryIO, media_type: str, options: MediaOptions, limits: MediaLimits | None, view: View
    ) -> None:
        self._file, self._media_type, self._options, self._limits = file, media_type, options, limits
        self._place = view.place
        if not is_whole(file, media_type):
            self._fail("it is cut off")
        with self._open() as (container, stream):
            self._survey = self._read_packets(container, stream)
        pts, base = self._survey.pts, self._survey.time_base
        chosen = choose([float((stamp - pts[0]) * base) for stamp in pts], options, view)
        self._targets = [pts[index] for index in chosen]
        self.expected = len(chosen)
        self._sampled: list[float] = []
        self._plan: Plan | None = None
        self._first_packet = self._key_packet_before(self._targets[0])
        self._check_cost()

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess() if self._plan is None else self._plan.preprocess

    def info(self) -> SourceInfo:
        survey = self._survey
        height, width = (survey.height, survey.width) if self._plan is None else (self._plan.height, self._plan.width)
        return SourceInfo(
            media_type=self._media_type,
            codec=survey.codec,
            width=width,
            height=height,
            frames_in=len(survey.pts),
            fps=survey.fps,
            duration_s=survey.duration_s,
            sampled_pts=list(self._sampled),
        )

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        targets, first = self._targets, self._survey.pts[0]
        position = 0  # of the next target
        with self._open() as (container, stream):
            for frame in self._decode(container, stream):
                if frame.pts is None or frame.pts < targets[position]:
                    continue
                how = orientation(frame)
                pixels = upright(rgb(frame), how)
                if self._plan is None:
                    height, width = squared(frame.height, frame.width, self._survey.aspect)
                    check_picture(self._limits, height, width, is_video=True)
                    height, width = (width, height) if how[0] else (height, width)
                    size, fit = self._options.size, self._options.fit
                    self._plan = plan(height, width, size, fit, self._limits, self._place)
                copies = bisect_right(targets, targets[position]) - position
                self._sampled += [float((frame.pts - first) * self._survey.time_base)] * copies
                yield from repeat(self._plan.frame(pixels), copies)
                # A frame that never came must not shift the ones after it.
                position = max(position + copies, bisect_right(targets, frame.pts))
                if position >= len(targets):
                    return
        if position == 0:
            self._fail("none of its frames can be decoded")

    def _check_cost(self) -> None:
        """Refuse by the packets alone what decoding would refuse after much work."""
        survey, last = self._survey, self._targets[-1]
        needed = sum(stamp <= last for stamp, _ in survey.order[self._first_packet :])
        check_decoded(self._limits, needed, survey.height * survey.width, is_video=True)
        shown = squared(survey.height, survey.width, survey.aspect)
        check_picture(self._limits, *shown, is_video=True)
        height, width = shown if self._options.size is None else self._options.size
        plan(*shown, self._options.size, self._options.fit, self._limits)
        check_kept(self._limits, self.expected, height * width)

    def _key_packet_before(self, stamp: int) -> int:
        """Index of the packet from which decoding must begin to show the frame at `stamp`."""
        keys = [index for index, (pts, is_key) in enumerate(self._survey.order) if is_key and pts <= stamp]
        return keys[-1] if keys else 0

    def _read_packets(self, container: Any, stream: Any) -> Survey:
        limits, order, shown = self._limits, [], []
        ends = 0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                self._fail("it is cut off")
            if packet.pts is None:
                self._fail("its frames have no time stamps")
            order.append((packet.pts, packet.is_keyframe))
            if not packet.is_discard:
                shown.append(packet.pts)
                ends = max(ends, packet.pts + (packet.duration or 0))
            if limits is not None and len(order) > limits.demuxed_packets:
                raise MediaError(
                    "decode-budget",
                    f"At most {limits.demuxed_packets} packets are read from one file.",
                    limit=limits.demuxed_packets,
                    actual=len(order),
                )
        if not shown:
            raise MediaError("no-video-stream", "The video stream of the file holds no frames.")
        shown.sort()
        base = stream.time_base
        measured = float((ends - shown[0]) * base)
        check_duration(limits, measured)
        span = float((shown[-1] - shown[0]) * base)
        nominal = float(stream.average_rate or 0) or None
        return Survey(
            pts=shown,
            order=order,
            time_base=base,
            codec=stream.codec_context.codec.canonical_name,
            height=stream.codec_context.height,
            width=stream.codec_context.width,
            aspect=self._aspect(stream),
            fps=rate((len(shown) - 1) / span, nominal) if span > 0 else nominal,
            duration_s=measured if measured > span else span,
        )

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        context, limits = stream.codec_context, self._limits
        if limits is not None:
            # The only place where the decoder obeys it: as an option of `av.open` it is silently ignored.
            context.options = {"max_pixels": str(int(limits.video_pixels * _BLOCK_FACTOR) + _BLOCK_PIXELS)}
        stream.thread_type = "NONE"
        context.thread_count = 1
        frames = pixels = 0
        for index, packet in enumerate(container.demux(stream)):
            if index < self._first_packet and packet.size:
                continue
            for frame in packet.decode():
                frames += 1
                pixels = max(pixels, frame.height * frame.width)
                check_picture(limits, frame.height, frame.width, is_video=True)
                check_decoded(limits, frames, pixels, is_video=True)
                if frame.is_corrupt:
                    self._fail("a frame is damaged")
                yield frame

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """The container and its first video stream; every failure inside becomes a problem."""
        try:
            self._file.seek(0)
            with open_container(self._file, self._media_type, self._limits) as container:
                yield container, self._video_stream(container)
        except av.error.MemoryError as error:  # mostly a damaged size field; FFmpeg stays sound
            raise MediaError("decode-budget", "Decoding the file asks for more memory than one may take.") from error
        except (MediaError, MemoryError):
            raise
        except Exception as error:  # damaged files raise UnicodeDecodeError, IndexError, LookupError and more
            self._fail("it is damaged or cut off", error)

    def _video_stream(self, container: Any) -> Any:
        limits = self._limits
        if limits is not None and len(container.streams) > limits.streams:
            raise MediaError(
                "decode-budget",
                f"A file may hold {limits.streams} streams; this one has {len(container.streams)}.",
                limit=limits.streams,
                actual=len(container.streams),
            )
        check_duration(limits, None if container.duration is None else container.duration / av.time_base)
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            raise MediaError("no-video-stream", "The file holds no video stream.")
        stream = streams[0]
        context = stream.codec_context
        if context is None or context.codec.canonical_name not in CODECS:
            raise MediaError("unsupported-codec", f"The video codec is none of {', '.join(CODECS)}.")
        check_picture(limits, context.height, context.width, is_video=True)
        return stream

    def _aspect(self, stream: Any) -> Fraction:
        """Width of a coded pixel over its height; FFmpeg guesses that of mp4 tracks from sizes that may be wrong."""
        coded = stream.codec_context.sample_aspect_ratio
        stated = None if DEMUXERS[self._media_type] == "mov" else stream.sample_aspect_ratio
        return Fraction(stated or coded or 1)

    def _fail(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise MediaError("corrupt-media", f"The {self._media_type} file cannot be decoded: {why}.") from cause


class _Nameless:
    """The reading half of a file, without its name: FFmpeg guesses formats and relative paths from names."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _refuse_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("media may not open other files")


def open_container(file: BinaryIO, media_type: str, limits: MediaLimits | None) -> Any:
    """Open a container with one pinned demuxer, no protocol and no way to open anything else."""
    return av.open(
        _Nameless(file),
        format=DEMUXERS[media_type],
        container_options={"format_whitelist": DEMUXERS[media_type], "protocol_whitelist": "none"},
        io_open=_refuse_open,
        timeout=None if limits is None else limits.decode_seconds,
    )


def rgb(frame: Any) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) of a decoded frame; untagged high-definition frames count as BT.709, as players do."""
    untagged_hd = frame.colorspace == _UNSPECIFIED_COLORSPACE and frame.height >= _HD_HEIGHT
    return frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709 if untagged_hd else None, threads=1)


def squared(height: int, width: int, aspect: Fraction) -> tuple[int, int]:
    """Size of a stored (height, width) frame with square pixels: one side is stretched, neither is shrunk.

    Args:
        aspect: width of a stored pixel over its height; nonsense counts as 1.
    """
    if aspect <= 0:
        return height, width
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Read the display matrix of a frame, which may turn and mirror; `frame.rotation` knows of turns only.

    Returns:
        Whether to swap rows and columns, then whether to reverse the rows, then whether to reverse the columns.
    """
    sides = [bytes(side) for side in frame.side_data if side.type == SideDataType.DISPLAYMATRIX]
    if not sides or len(sides[0]) < _MATRIX.size:
        return False, False, False
    # A stored point (x, y) is shown at (a x + c y, b x + d y), up to a shift; other angles go to the nearest quarter.
    a, b, _, c, d, *_ = _MATRIX.unpack_from(sides[0])
    swap = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, b < 0, c < 0) if swap else (False, d < 0, a < 0)


def upright(pixels: NDArray[np.uint8], how: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """Turn and mirror a frame as its display matrix says.

    Args:
        pixels: uint8 (H, W, 3).
        how: as `orientation` gives it.
    """
    swap, rows, columns = how
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
