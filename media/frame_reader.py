"""Opened media as an iterator of frames, and the choice of which frames to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from media.details import FileDetails
from media.errors import MediaError
from media.types import MediaOptions, Preprocess, SourceInfo, View


class FrameReader(ABC):
    """The kept frames of one file, in order, each resized as it is read; holds one frame at a time.

    Attributes:
        is_video: whether the file is a clip.
        expected: how many frames will come; a damaged clip may give fewer.
    """

    is_video: bool
    expected: int

    @abstractmethod
    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Decode: uint8 RGB frames (H, W, 3), all of one size. To be called once.

        Raises:
            MediaError: the file is damaged or over a limit.
        """

    @property
    @abstractmethod
    def preprocess(self) -> Preprocess:
        """Return the steps applied to each frame; known from the first frame on."""

    @abstractmethod
    def info(self) -> SourceInfo:
        """Return the file's description: times as planned before the first frame, as read after the last."""

    @abstractmethod
    def details(self) -> FileDetails:
        """Describe for people how the file is stored; after the last frame."""


def choose(times: Sequence[float], options: MediaOptions, view: View) -> list[int]:
    """Indices of the frames to keep.

    Args:
        times: ascending times of all frames, seconds from the first one.
        options: window and sampling.
        view: place in the window, and rate.

    Returns:
        Ascending indices into `times`, at least one; the same one several times where the rate asks for it.

    Raises:
        MediaError: "invalid-options" if no frame lies in the window.
    """
    start = 0.0 if options.start_s is None else options.start_s
    end = float("inf") if options.end_s is None else options.end_s
    window = [index for index, time in enumerate(times) if start <= time < end]
    if not window:
        raise MediaError(
            "invalid-options",
            f"No frame lies between start_s and end_s; the last frame is at {times[-1]:.3f} s.",
            errors=[{"pointer": "/start_s", "detail": "no frame at or after this time and before end_s"}],
        )
    if options.sampling == "stride":
        window = window[:: options.stride]
    if view.fps is not None:
        return [window[index] for index in _at_rate([times[index] for index in window], options.frames, view)]
    wanted = len(window) if options.frames is None else min(options.frames, len(window))
    if options.sampling == "uniform" and wanted < len(window):
        return [window[round(position)] for position in np.linspace(0, len(window) - 1, wanted)]
    first = int(view.start * (len(window) - wanted + 1))
    return window[first : first + wanted]


def _at_rate(times: Sequence[float], frames: int | None, view: View) -> list[int]:
    """Indices of the frames nearest to the ticks of a clock; of two equally near ones the earlier."""
    assert view.fps is not None
    span, tick = times[-1] - times[0], 1 / view.fps
    gap = span / max(1, len(times) - 1)
    slack = 0.0 if frames is None else span + gap - (frames - 1) * tick
    first = bisect_right(times, times[0] + view.start * max(0.0, slack)) - 1
    # The last frame is on the screen for a while; rounded times must not decide whether another tick fits.
    end = times[-1] + max(gap / 2, gap - tick / 2)
    fitting = int((end - times[first]) / tick) + 1
    ticks = times[first] + np.arange(fitting if frames is None else min(frames, fitting)) / view.fps
    known = np.asarray(times)
    after = np.searchsorted(known, ticks).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    return np.where(np.abs(known[after] - ticks) < np.abs(known[before] - ticks), after, before).tolist()
