"""Pictures through Pillow, but for plain JPEGs: any mode, orientation and profile becomes upright sRGB on white."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image

from media import details
from media.colour import CodePoints, code_points, on_white
from media.errors import MediaError
from media.frame_reader import FrameReader
from media.jpeg import decode_jpeg, plain_size
from media.limits import check_picture
from media.orientation import UPRIGHT, Orientation, from_exif
from media.resize import TWO_PASS_MODES, Plan, Resampling, plan
from media.truncation import without_end
from media.types import MediaOptions, Preprocess, SampleWindow, SourceInfo

if TYPE_CHECKING:
    from media.limits import MediaLimits

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}

# A process reads one file at a time; the service's workers may start no threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_ORIENTATION = 0x0112
_HEAD_BYTES = 1 << 16  # what comes before the pixels, but for very large profiles
# Tags of TIFF that cameras set in raw files, whose first picture is a preview.
_SUBFILE_TYPE, _DNG_VERSION = 0x00FE, 0xC612
_REDUCED = 1
# Of a JPEG whose header is read here.
_SMALL_PIXELS = 1 << 20
# A JPEG is decoded at a fraction of its size only while it stays this much larger than what is asked for.
_DRAFT_GAP = 2
# What Pillow multiplies the samples of shallow grey pictures by.
_SHALLOW = {"L;2": 85, "L;4": 17}


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
            resampling = self._plan.resampling(image)
            if resampling is None or not self._opened.is_plain:
                return self._converted(image), None
            return np.asarray(image.convert("RGB") if image.mode != "RGB" else image), resampling

    @cached_property
    def _opened(self) -> _Opened:
        """Open the file with Pillow, which small plain JPEGs do without."""
        self._file.seek(0)
        with reading(self._media_type, self._limits):
            image = open_picture(self._file, self._media_type, self._limits)
            upright = orientation(image)
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
        return convert(image, self._plan, self._opened.orientation, self._opened.profile)

    def _loaded(self) -> Image.Image:
        image = self._opened.image
        if self._media_type == "image/jpeg":
            image = self._jpeg(image)
        image.load()
        return image

    def _jpeg(self, opened: Image.Image) -> Image.Image:
        """Decode a JPEG; one that only lacks its end is shown, as in browsers."""
        size = self._draft_size(opened.height, opened.width)

        def load(image: Image.Image) -> Image.Image:
            image.draft(None, size)
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
        profile: of its colours, or code points.
        details: of the file, for people.
    """

    image: Image.Image
    orientation: Orientation
    profile: bytes | CodePoints | None
    details: details.FileDetails

    @property
    def is_plain(self) -> bool:
        """Return whether the stored colours are those that are shown, the right way up."""
        return not self.profile and self.orientation == UPRIGHT and "transparency" not in self.image.info


@contextmanager
def reading(media_type: str, limits: MediaLimits | None) -> Iterator[None]:
    """Turn whatever Pillow raises into a problem."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS if limits is None else limits.image_pixels
        raise MediaError("too-many-pixels", f"A picture may have {limit} pixels; this one has more.", limit) from error
    except Exception as error:  # damaged pictures raise OSError, SyntaxError, ValueError, struct.error and more
        raise MediaError(
            "corrupt-media", f"The {media_type} file cannot be decoded: it is damaged or cut off."
        ) from error


def open_picture(file: BinaryIO, media_type: str, limits: MediaLimits | None) -> Image.Image:
    """Read the header with one pinned format and check the size that it states."""
    image = Image.open(file, formats=(FORMATS[media_type],))
    check_picture(limits, image.height, image.width, is_video=False)
    if image.format == "TIFF":
        check_tiff(image)
    scale_key(image)
    return image


def check_tiff(image: Any) -> None:
    """Refuse what a TIFF may hold besides a picture to look at.

    Raises:
        MediaError: "unsupported-container".
    """
    if image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED or _DNG_VERSION in image.tag_v2:
        detail = "The TIFF holds a camera's raw picture; develop it into a PNG, JPEG or plain TIFF."
        raise MediaError("unsupported-container", detail)
    if image.mode == "F" or image.mode == "I":
        detail = "The TIFF holds numbers whose range is a guess; accepted are 1, 8 and 16 bits a channel."
        raise MediaError("unsupported-container", detail)


def scale_key(image: Image.Image) -> None:
    """Bring a PNG's transparent colour to the depth of Pillow's samples: it is left at the depth of the file."""
    key = image.info.get("transparency")
    if image.format != "PNG" or not image.tile:  # type: ignore[attr-defined]
        return
    depth = image.tile[0].args  # type: ignore[attr-defined]
    if image.mode == "L" and isinstance(key, int):
        scale = _SHALLOW.get(depth, 1)
        # Bits above the file's depth count for nothing.
        image.info["transparency"] = key % (255 // scale + 1) * scale
    elif image.mode == "RGB" and isinstance(key, tuple):
        # Pillow keeps only the high bytes of deep colours, so that only these can be compared.
        image.info["transparency"] = tuple(part >> 8 if depth == "RGB;16B" else part & 0xFF for part in key)


def orientation(image: Image.Image) -> Orientation:
    """Read the EXIF orientation; damaged metadata counts as upright, as in browsers."""
    if image.format == "TIFF":
        return UPRIGHT  # Pillow turns it while loading, and states its size as turned
    try:
        return from_exif(int(image.getexif().get(_ORIENTATION, 1)))
    except Exception:
        return UPRIGHT


def profile_of(image: Image.Image, file: BinaryIO, media_type: str) -> bytes | CodePoints | None:
    """Return the colour profile of an opened picture, or code points that say more."""
    profile = image.info.get("icc_profile")
    if profile and media_type == "image/avif":
        return profile
    position = file.tell()
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(position)
    return code_points(head, media_type) or profile


def convert(
    image: Image.Image, plan: Plan, upright: Orientation, profile: bytes | CodePoints | None
) -> NDArray[np.uint8]:
    """Convert a loaded picture of any mode to an upright sRGB frame of the planned size.

    Args:
        image: the picture; it may have been decoded at a reduced scale.
        plan: the geometry, for the upright picture.
        upright: the way from stored to shown pixels.
        profile: of its colours, or code points.

    Returns:
        uint8 RGB (H, W, 3).
    """
    picture = upright.picture(continuous(image))
    return plan.pad(np.asarray(on_white(plan.image(picture), profile)))


def continuous(image: Image.Image) -> Image.Image:
    """Return the picture in a mode that can be resampled: no palette or bitmap, 8 bits a channel, an alpha channel."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
        grey = Image.fromarray((deep >> 8).astype(np.uint8))
        if key is not None:
            grey.putalpha(Image.fromarray((deep != key) * np.uint8(255)))
        return grey
    if image.mode == "RGBa":  # premultiplied
        return image.convert("RGBA")
    if image.mode in ("1", "L") and key is not None:
        return image.convert("LA")  # still grey, as an embedded profile expects
    if image.mode in ("P", "PA") or key is not None:
        return image.convert("RGB" if image.mode == "P" and key is None else "RGBA")
    return image.convert("L") if image.mode == "1" else image


def still_info(media_type: str, plan: Plan) -> SourceInfo:
    """Describe a still picture."""
    return SourceInfo(media_type, FORMATS[media_type].lower(), plan.width, plan.height, 1, None, None, [0.0])
