"""Opened media as an iterator of frames, and the choice of which frames to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from media.errors import MediaError
from media.types import MediaOptions, Preprocess, SourceInfo


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
        """Return the file's description; complete after the last frame."""


def choose(times: Sequence[float], options: MediaOptions) -> list[int]:
    """Indices of the frames to keep.

    Args:
        times: ascending times of all frames, seconds from the first one.
        options: window and sampling.

    Returns:
        Ascending indices into `times`, at least one.

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
    wanted = len(window) if options.frames is None else min(options.frames, len(window))
    if options.sampling == "uniform" and wanted < len(window):
        return [window[round(position)] for position in np.linspace(0, len(window) - 1, wanted)]
    return window[:wanted]
