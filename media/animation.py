"""Animated pictures through Pillow: GIF, PNG, WebP and AVIF as clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from itertools import accumulate, count, islice, repeat
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media import details
from media.animation_index import INDEXED_TYPES, index_frames
from media.composition import compose
from media.frame_choice import choose_frames
from media.frame_reader import FrameReader
from media.images import convert
from media.limits import check_canvas, check_decoded, check_kept
from media.picture_file import FORMATS, open_picture, orientation, profile_of, reading, without_empty_alpha
from media.resize import plan
from media.types import MediaOptions, Preprocess, SampleWindow, SourceInfo

if TYPE_CHECKING:
    from media.limits import MediaLimits

# Browsers show frames that claim no duration, or one this short, for longer: old files meant "as fast as you can".
_TOO_SHORT_MS = 10.0
_DEFAULT_FRAME_MS = 100.0


class AnimationReader(FrameReader):
    """Frames of an animated GIF, PNG, WebP or AVIF; `is_video` is false if the file turns out to hold one picture.

    Args, Raises: as `StillReader`.
    """

    def __init__(
        self, file: BinaryIO, media_type: str, options: MediaOptions, limits: MediaLimits | None, window: SampleWindow
    ) -> None:
        self._media_type, self._limits = media_type, limits
        self._file = file
        with reading(media_type, limits):
            image = open_picture(file, media_type, limits)
            self._orientation = orientation(image, file)
            self._profile = profile_of(image, file, media_type)
            self._details = details.of_picture(image, str(self._orientation), self._profile)
            # A single frame is an animation too if readers of stills see another picture.
            is_behind_another = bool(image.info.get("default_image"))
            durations, canvas = index_animation(image, file, media_type)
        # Rounded, so that the sum of thirty thirtieths is a second: windows begin and end there.
        starts = [0.0, *(round(sum_ms / 1000, 6) for sum_ms in accumulate(map(shown_ms, durations)))]
        self._duration_s = starts.pop()
        height, width = self._orientation.size(image.height, image.width)
        self._plan = plan(height, width, options.size, options.fit, limits, window.crop_position)
        self.is_video = len(starts) > 1 or is_behind_another
        self._count = len(starts)
        self._chosen = choose_frames(starts, options, window) if self.is_video else [0]
        self._times = [starts[index] for index in self._chosen]
        self.expected = len(self._chosen)
        if self.is_video:
            check_canvas(limits, *canvas)
            check_decoded(limits, self._chosen[-1] + 1, canvas[0] * canvas[1], is_video=False)
        check_kept(limits, self.expected, self._plan.out[0] * self._plan.out[1])

    @property
    def preprocess(self) -> Preprocess:
        return self._plan.preprocess

    def info(self) -> SourceInfo:
        return SourceInfo(
            media_type=self._media_type,
            codec=FORMATS[self._media_type].lower(),
            width=self._plan.width,
            height=self._plan.height,
            frames_in=self._count,
            fps=self._count / self._duration_s,
            duration_s=self._duration_s,
            sampled_pts=self._times,
        )

    def details(self) -> details.FileDetails:
        return self._details

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        with reading(self._media_type, self._limits):
            self._file.seek(0)
            image = open_picture(self._file, self._media_type, self._limits)
            copies, index = Counter(self._chosen), -1
            for index, canvas in self._canvases(image, copies):
                yield from repeat(convert(canvas, self._plan, self._orientation, self._profile), copies[index])
                if index == self._chosen[-1]:
                    return
            if index < 0:
                raise ValueError("None of the frames can be decoded.")

    def _canvases(self, image: Image.Image, wanted: Container[int]) -> Iterator[tuple[int, Image.Image]]:
        if self._media_type in ("image/gif", "image/png"):
            self._file.seek(0)
            data = self._file.read()
            yield from compose(data, self._media_type, image.height, image.width, self._limits, wanted)
        else:
            yield from (page for page in enumerate(pages(image)) if page[0] in wanted)


def pages(image: Image.Image) -> Iterator[Image.Image]:
    """Decode the frames of an animated WebP or AVIF, one after the other; none of another format."""
    if image.format not in ("WEBP", "AVIF"):
        return  # further pictures in a JPEG or TIFF are previews, other views and pages, not frames
    for index in count():
        try:
            image.seek(index)
        except EOFError:
            return
        image.load()
        yield without_empty_alpha(image)


def index_animation(image: Image.Image, file: BinaryIO, media_type: str) -> tuple[list[float], tuple[int, int]]:
    """Return what each frame states as its duration, milliseconds, and the (height, width) of what is decoded for each.

    A picture that is not animated has one of 0 milliseconds.
    """
    height, width = image.height, image.width
    if media_type not in INDEXED_TYPES:
        return [0.0], (height, width)
    position = file.tell()
    file.seek(0)
    frames = index_frames(file.read(), media_type)
    if media_type != "image/gif":  # the others state how many they have
        frames = islice(frames, getattr(image, "n_frames", 1) - int(bool(image.info.get("default_image"))))
    durations = []
    for frame in frames:
        durations.append(frame.milliseconds)
        # Frames may be larger than what is shown of them.
        height, width = max(height, frame.height), max(width, frame.width)
    file.seek(position)
    return durations or [0.0], (height, width)


def shown_ms(claimed: float) -> float:
    """Return the time for which browsers show a frame that claims to last so many milliseconds."""
    return claimed if claimed > _TOO_SHORT_MS else _DEFAULT_FRAME_MS
