"""Pictures through Pillow, but for plain JPEGs: any mode, orientation and profile becomes upright sRGB on white."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from media import details
from media.colour import Colours, on_white
from media.composition import compose
from media.frame_reader import FrameReader
from media.jpeg import decode_jpeg, plain_size
from media.limits import check_picture
from media.orientation import UPRIGHT, Orientation
from media.picture_file import FORMATS, continuous, open_picture, orientation, profile_of, reading, without_empty_alpha
from media.resize import TWO_PASS_MODES, Box, Plan, Resampling, plan
from media.truncation import without_end
from media.types import MediaOptions, Preprocess, SampleWindow, SourceInfo

if TYPE_CHECKING:
    from media.limits import MediaLimits

_HEAD_BYTES = 1 << 16  # of a JPEG, before its pixels
_JPEG_END = b"\xff\xd9"
_YCBCR = 1  # transform that Adobe's segment may state
# Of a JPEG whose header is read here.
_SMALL_PIXELS = 1 << 20
# A JPEG is decoded at a fraction of its size only while it stays this much larger than what is asked for.
_DRAFT_GAP = 2


class StillReader(FrameReader):
    """The one frame of a picture, or the first of an animation.

    Args:
        file: the open file.
        media_type: one of `FORMATS`, from the file's content.
        options: size and fit.
        limits: bounds, None for trusted files.
        window: position of the crop and, of an animation, of the kept frames.

    Raises:
        MediaError: anything wrong with the file, or a limit that it breaks.
    """

    is_video = False
    expected = 1

    def __init__(
        self, file: BinaryIO, media_type: str, options: MediaOptions, limits: MediaLimits | None, window: SampleWindow
    ) -> None:
        self._media_type, self._file, self._limits = media_type, file, limits
        self._area: Box | None = None
        self._jpeg_size = self._size_without_pillow()
        if self._jpeg_size is not None:
            size = self._jpeg_size
        else:
            image, upright, *_ = self._opened
            size = upright.size(image.height, image.width)
            if media_type == "image/jpeg" and image.mode in TWO_PASS_MODES and self._opened.is_plain:
                self._jpeg_size = size
        self._plan = plan(*size, options.size, options.fit, limits, window.crop_position)

    @property
    def preprocess(self) -> Preprocess:
        return self._plan.preprocess

    def info(self) -> SourceInfo:
        return still_info(self._media_type, self._plan)

    def details(self) -> details.FileDetails:
        return self._opened.details

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        with reading(self._media_type, self._limits):
            stored = self._plain_jpeg()
            pixels = self._plan.frame(stored) if stored is not None else self._converted(self._loaded())
        yield pixels

    def read_source(self) -> tuple[NDArray[np.uint8], Resampling | None]:
        """Decode, and leave the resampling to the caller where nothing else is to be done; instead of iterating.

        Returns:
            uint8 RGB (H, W, 3), and its resampling; None if these are the pixels that iterating gives.

        Raises:
            MediaError: the file is damaged or over a limit.
        """
        with reading(self._media_type, self._limits):
            resampling = self._plan.resampling(self._opened.image)
            if resampling is not None and (pixels := self._plain_jpeg()) is not None:
                return pixels, resampling
            image = self._loaded()
            resampling = self._plan.resampling(image, self._area)
            if resampling is None or not self._opened.is_plain:
                return self._converted(image), None
            return np.asarray(image.convert("RGB") if image.mode != "RGB" else image), resampling

    def undecoded(self) -> tuple[tuple[int, int], Resampling] | None:
        """Leave a JPEG that any decoder reads to the caller, whole; instead of iterating.

        Returns:
            The (height, width) of its pixels, and their resampling; None for other files.
        """
        if self._jpeg_size is None or self._is_reduced(*self._jpeg_size):
            return None
        image = self._opened.image
        self._file.seek(-len(_JPEG_END), os.SEEK_END)
        is_usual = self._file.read() == _JPEG_END and not image.info.get("progressive")
        if not is_usual or image.info.get("adobe_transform", _YCBCR) != _YCBCR:
            return None
        layers = getattr(image, "layer", ())  # number of each component, its sampling factors and its table
        is_grey = image.mode == "L" and [layer[:3] for layer in layers] == [(1, 1, 1)]
        if not is_grey and ([layer[0] for layer in layers] != [1, 2, 3] or JpegImagePlugin.get_sampling(image) < 0):
            return None
        resampling = self._plan.resampling(image)
        return None if resampling is None else (self._jpeg_size, resampling)

    @cached_property
    def _opened(self) -> _Opened:
        """Open the file with Pillow, which small plain JPEGs do without."""
        self._file.seek(0)
        with reading(self._media_type, self._limits):
            image = open_picture(self._file, self._media_type, self._limits)
            upright = orientation(image, self._file)
            profile = profile_of(image, self._file, self._media_type)
            return _Opened(image, upright, profile, details.of_picture(image, str(upright), profile))

    def _size_without_pillow(self) -> tuple[int, int] | None:
        """Return the (height, width) of a small plain JPEG; of a large one Pillow's part takes hardly any time."""
        if self._media_type != "image/jpeg":
            return None
        self._file.seek(0)
        size = plain_size(self._file.read(_HEAD_BYTES))
        if size is None or math.prod(size) > _SMALL_PIXELS:
            return None
        check_picture(self._limits, *size, is_video=False)
        return size

    def _plain_jpeg(self) -> NDArray[np.uint8] | None:
        """Return the pixels of a JPEG whose stored colours are those that are shown, the right way up, or None.

        Returns:
            uint8 RGB (H, W, 3); None for other files, for those with faults, and for those to be decoded at a fraction
            of their size.
        """
        if self._jpeg_size is None or self._is_reduced(*self._jpeg_size):
            return None
        self._file.seek(0)
        return decode_jpeg(self._file.read(), *self._jpeg_size)

    def _converted(self, image: Image.Image) -> NDArray[np.uint8]:
        return convert(image, self._plan, self._opened.orientation, self._opened.profile, self._area)

    def _loaded(self) -> Image.Image:
        image = self._opened.image
        if self._media_type == "image/gif":  # Pillow fills what the first frame leaves free with a colour
            self._file.seek(0)
            _, first = next(compose(self._file.read(), self._media_type, image.height, image.width, self._limits, {0}))
            return first
        if self._media_type == "image/jpeg":
            image = self._jpeg(image)
        image.load()
        return without_empty_alpha(image) if self._media_type in ("image/webp", "image/avif") else image

    def _jpeg(self, opened: Image.Image) -> Image.Image:
        """Decode a JPEG; one that only lacks its end is shown, as in browsers."""
        size = self._draft_size(opened.height, opened.width)

        def load(image: Image.Image) -> Image.Image:
            drafted = image.draft(None, size)
            # Not the whole picture: its last pixels may stand for less of the source than the others.
            self._area = None if drafted is None else drafted[1]
            image.load()
            return image

        try:
            return load(opened)
        except OSError:
            self._file.seek(0)
            return without_end(self._file.read(), lambda file: load(open_picture(file, self._media_type, self._limits)))

    def _is_reduced(self, height: int, width: int) -> bool:
        least_width, least_height = self._draft_size(height, width)
        return min(width // least_width, height // least_height) > 1

    def _draft_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the least width and height to decode a JPEG at."""
        left, top, right, bottom = self._plan.box
        target_height, target_width = self._plan.target
        scale = _DRAFT_GAP * max(target_height / (bottom - top), target_width / (right - left))
        return int(width * scale) + 1, int(height * scale) + 1


class _Opened(NamedTuple):
    """A picture that Pillow has opened.

    Args:
        image: its header alone, or the loaded picture.
        orientation: the way from stored to shown pixels.
        profile: of its colours.
        details: of the file, for people.
    """

    image: Image.Image
    orientation: Orientation
    profile: Colours
    details: details.FileDetails

    @property
    def is_plain(self) -> bool:
        """Return whether the stored colours are those that are shown, the right way up."""
        return not self.profile and self.orientation == UPRIGHT and "transparency" not in self.image.info


def convert(
    image: Image.Image, plan: Plan, upright: Orientation, profile: Colours, area: Box | None = None
) -> NDArray[np.uint8]:
    """Convert a loaded picture of any mode to an upright sRGB frame of the planned size.

    Args:
        image: the picture; it may have been decoded at a reduced scale.
        plan: the geometry, for the upright picture.
        upright: the way from stored to shown pixels.
        profile: of its colours.
        area: the part of it that is the planned source; None for all.

    Returns:
        uint8 RGB (H, W, 3).
    """
    shown = None if area is None else upright.area(area, image.width, image.height)
    picture = upright.picture(continuous(image))
    return plan.pad(np.asarray(on_white(plan.image(picture, shown), profile)))


def still_info(media_type: str, plan: Plan) -> SourceInfo:
    """Describe a still picture."""
    return SourceInfo(media_type, FORMATS[media_type].lower(), plan.width, plan.height, 1, None, None, [0.0])
