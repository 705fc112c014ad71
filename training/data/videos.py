"""Clips of videos: a window at a place, at a frame rate, as squares of RGB."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from training.data.files import Section
from training.data.media_types import VIDEO_FORMATS
from training.errors import TrainingError

MAX_PIXELS = 8192 * 4352  # of a frame: 8K, in whole blocks of the decoder
UNTIMED_RATE = 25.0  # frames per second of a stream that does not say
SEEK_MARGIN = 2.0  # seconds that a second seek aims earlier
Frame = TypeVar("Frame")


class Video:
    """An opened video; frames come with their times in seconds.

    Args:
        file: its bytes.
        suffix: of its name, a key of `VIDEO_FORMATS`.

    Raises:
        TrainingError: it has no moving pictures, or larger ones than `MAX_PIXELS`.
        Exception: many kinds, for damaged files.
    """

    def __init__(self, file: Section, suffix: str) -> None:
        self._file, self._format = file, VIDEO_FORMATS[suffix.lower()]
        self._untimed = False  # whether frames come without times
        self._open()
        self.start, self.length = self._extent()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    @property
    def rate(self) -> float:
        """Frames per second on average."""
        return float(self._stream.average_rate or UNTIMED_RATE)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._stream.width, self._stream.height

    def from_time(self, time: float) -> Iterator[tuple[float, Any]]:
        """Frames from the one on the screen at `time`, or an earlier one, to the end: the same as in a whole decode."""
        for aim in (time, time - SEEK_MARGIN):
            if aim <= self.start or self._untimed:
                break
            try:
                self._container.seek(round(aim / self._stream.time_base), stream=self._stream, backward=True)
            except av.FFmpegError:  # no way to seek in this stream
                break
            frames = self._frames()
            first = next(frames, None)
            if first is not None and first[0] <= time and not self._untimed:
                yield first
                yield from frames
                return
        self._reopen()
        yield from self._frames()

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """Frames with their times; the number of a frame stands for a time that the file does not give."""
        for number, frame in enumerate(self._container.decode(self._stream)):
            self._untimed = self._untimed or frame.pts is None
            yield (number / self.rate if self._untimed else float(frame.pts * self._stream.time_base)), frame

    def _open(self) -> None:
        self._file.seek(0)
        self._container: Any = av.open(
            self._file,
            format=self._format,
            metadata_errors="ignore",
            # a file that names other files or addresses reads none of them
            container_options={"format_whitelist": self._format, "protocol_whitelist": "none"},
        )
        if not self._container.streams.video:
            raise TrainingError("it has no moving pictures")
        self._stream: Any = self._container.streams.video[0]
        if self._stream.width * self._stream.height > MAX_PIXELS:
            raise TrainingError(f"its frames of {self._stream.width}x{self._stream.height} pixels are too large")
        self._stream.thread_type = "NONE"  # a process decodes one video at a time, on one core
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _extent(self) -> tuple[float, float]:
        """First time and length in seconds, from the header, or by reading all packets where it does not tell."""
        base = self._stream.time_base
        start = float((self._stream.start_time or 0) * base)
        if self._stream.duration:
            return start, float(self._stream.duration * base)
        if self._container.duration:
            return start, self._container.duration / av.time_base
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        times = [packet.pts for packet in packets if packet.pts is not None]
        self._reopen()
        if len(times) < len(packets):
            self._untimed = True
            return 0.0, len(packets) / self.rate
        if not times:
            return start, 0.0
        return float(min(times) * base), float((max(times) - min(times)) * base) + 1 / self.rate


def pick(timed: Iterator[tuple[float, Frame]], begin: float, count: int, fps: float | None) -> list[Frame]:
    """Choose a clip's frames.

    The first is the one on the screen at `begin`. Without `fps` the next ones follow as they come; with it, the k-th is
    the one nearest in time to k / fps after the first, the earlier of two that are equally near: so it is the same at
    constant and at varying rates, and at the file's own rate no frame is left out. Where the video ends early the last
    frame stays.

    Args:
        timed: frames with their times in seconds, in order.
        begin: seconds.
        count: frames of the clip.
        fps: frames per second of the clip.

    Raises:
        TrainingError: there are no frames.
    """
    current, following = next(timed, None), next(timed, None)
    if current is None:
        raise TrainingError("it has no frames")
    while following is not None and following[0] <= begin:
        current, following = following, next(timed, None)
    chosen, origin = [current[1]], current[0]
    for number in range(1, count):
        due = origin + (0 if fps is None else number / fps)
        while following is not None and (fps is None or abs(following[0] - due) < abs(current[0] - due)):
            current, following = following, next(timed, None)
            if fps is None:
                break
        chosen.append(current[1])
    return chosen


def clip(
    file: Section, suffix: str, side: int, frames: int, fps: float | None, when: float, where: float
) -> NDArray[np.uint8]:
    """Cut a window of a video in time and space: uint8 (frames, side, side, 3).

    The square spans the shorter side of the picture, resized with antialiasing. A rotated recording is turned upright.

    Args:
        file: the video.
        suffix: of its name.
        side: pixels of the square.
        frames: of the clip; `pick` says which.
        fps: frames per second of the clip, as recorded if None.
        when: place of the window in the video, from 0 (its start) to 1 (the latest that still fits).
        where: place of the square along the longer side, from 0 (left or top) to 1.

    Raises:
        Exception: many kinds, for damaged files.
    """
    with Video(file, suffix) as video:
        begin = video.start + when * max(0.0, video.length - frames / (fps or video.rate))
        chosen = pick(video.from_time(begin), begin, frames, fps)
    return squares(chosen, side, where)


def squares(frames: list[Any], side: int, where: float) -> NDArray[np.uint8]:
    """Resize decoded frames so that the shorter side fits, and cut: uint8 (len(frames), side, side, 3)."""
    first = frames[0]
    scale = side / min(first.width, first.height)
    width, height = (max(side, round(length * scale)) for length in (first.width, first.height))
    if width * height > MAX_PIXELS:  # a strip of few rows would become a sheet
        raise TrainingError(f"its frames of {first.width}x{first.height} pixels are too narrow for squares of {side}")
    left, top = (math.floor(where * (length - side + 1)) for length in (width, height))
    turns = round(first.rotation / 90) % 4
    converter = VideoReformatter()
    made = np.empty((len(frames), side, side, 3), np.uint8)
    for number, frame in enumerate(frames):
        if number and frame is frames[number - 1]:
            made[number] = made[number - 1]
            continue
        picture = converter.reformat(frame, width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        made[number] = np.rot90(picture[top : top + side, left : left + side], turns)
    return made
