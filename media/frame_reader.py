"""Opened media as an iterator of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from media.details import FileDetails
from media.types import Preprocess, SourceInfo


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
