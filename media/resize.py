"""Resize, crop and pad: one plan per clip, applied to each frame as it is read, so that memory stays small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.errors import MediaError
from media.types import Fit, Preprocess

if TYPE_CHECKING:
    from media.limits import MediaLimits

Depth = TypeVar("Depth", np.uint8, np.uint16)
Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels of the source

# Pillow's own order of the two axes depends on sizes; with alpha it would multiply twice.
TWO_PASS_MODES = ("RGB", "L")
# Pillow first shrinks by whole factors while the picture stays this much larger than asked: fast, and hardly visible.
REDUCING_GAP = 2.0


@dataclass(frozen=True)
class Plan:
    """The geometry that turns frames of one size into frames of another.

    Args:
        height, width: the source's size as displayed, pixels.
        target: (height, width) that the cropped source is resampled to.
        box: the part of the source that is resampled, source pixels.
        preprocess: the same as a caller sees it.
    """

    height: int
    width: int
    target: tuple[int, int]
    box: Box
    preprocess: Preprocess

    @property
    def out(self) -> tuple[int, int]:
        """Size of the frames that come out, (height, width)."""
        pad = self.preprocess.pad
        return self.target if pad is None else (pad[2], pad[3])

    def image(self, picture: Image.Image, area: Box | None = None) -> Image.Image:
        """Resample a picture of any mode; one that was decoded at a reduced scale lands on the same pixels.

        Args:
            picture: the source, upright; its size may be a fraction of the planned one.
            area: the part of it that is the planned source; None for all.
        """
        height, width = self.target
        if picture.size == (width, height) and (self.height, self.width) == self.target:
            return picture
        box = self.source_box(picture, area)
        if picture.mode in TWO_PASS_MODES and not _reduces(box, self.target):
            return _two_passes(picture, box, self.target)
        return picture.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)

    def resampling(self, picture: Image.Image, area: Box | None = None) -> Resampling | None:
        """Return how a picture is resampled, if that is all that is done to it, in whole numbers and in two passes.

        Args:
            picture, area: as for `image`.
        """
        box = self.source_box(picture, area)
        if picture.mode not in TWO_PASS_MODES or self.preprocess.pad is not None or _reduces(box, self.target):
            return None
        return Resampling(two_passes(picture.height, box, self.target), self.target)

    def source_box(self, picture: Image.Image, area: Box | None = None) -> Box:
        """Return the part of a picture that is resampled.

        Args:
            picture, area: as for `image`.
        """
        start_x, start_y, end_x, end_y = area or (0, 0, picture.width, picture.height)
        scale_x, scale_y = (end_x - start_x) / self.width, (end_y - start_y) / self.height
        left, top, right, bottom = self.box
        return (
            start_x + left * scale_x,
            start_y + top * scale_y,
            min(start_x + right * scale_x, end_x),
            min(start_y + bottom * scale_y, end_y),
        )

    def frame(self, pixels: NDArray[Depth]) -> NDArray[Depth]:
        """Resample and pad one frame.

        Args:
            pixels: uint8 or uint16 RGB (H, W, 3), upright.

        Returns:
            RGB of the same type, contiguous, of size `out`.
        """
        if pixels.shape[:2] != self.target or (self.height, self.width) != self.target:
            if pixels.dtype == np.uint8:
                pixels = np.asarray(self.image(Image.fromarray(pixels)))
            else:  # Pillow has no deep colours, but floating-point greys
                channels = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
                resampled = np.stack([np.asarray(self.image(channel)) for channel in channels], -1)
                pixels = resampled.round().clip(0, 0xFFFF).astype(pixels.dtype)
        return self.pad(pixels)

    def pad(self, pixels: NDArray[Depth]) -> NDArray[Depth]:
        """Lay a frame of size `target` into its black surround: RGB (H, W, 3) to the same, of size `out`."""
        if self.preprocess.pad is None:
            return np.ascontiguousarray(pixels)
        top, left, height, width = self.preprocess.pad
        canvas = np.zeros((height, width, 3), pixels.dtype)
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return canvas


class Passes(NamedTuple):
    """The two passes that resample a picture: along its rows first, then along its columns.

    Args:
        top, bottom: rows that the second pass needs.
        columns, rows: parts of the axes, in pixels of those rows.
    """

    top: int
    bottom: int
    columns: tuple[float, float]
    rows: tuple[float, float]


class Resampling(NamedTuple):
    """The resampling of a picture by someone else, as `media.taps` defines it.

    Args:
        passes: along the two axes.
        target: (height, width) of the result.
    """

    passes: Passes
    target: tuple[int, int]


def two_passes(height: int, box: Box, target: tuple[int, int]) -> Passes:
    """Return the passes that resample a part of a picture.

    Args:
        height: of the picture, pixels.
        box: the part.
        target: (height, width) of the result.
    """
    left, above, right, below = box
    reach = 3 * max((below - above) / target[0], 1.0)  # of Lanczos' filter
    top, bottom = max(0, math.floor(above - reach) - 1), min(height, math.ceil(below + reach) + 1)
    return Passes(top, bottom, (left, right), (above - top, below - top))


def _two_passes(picture: Image.Image, box: Box, target: tuple[int, int]) -> Image.Image:
    passes = two_passes(picture.height, box, target)
    rows, width = passes.bottom - passes.top, target[1]
    strip = picture.crop((0, passes.top, picture.width, passes.bottom)) if rows < picture.height else picture
    (left, right), (top, bottom) = passes.columns, passes.rows
    strip = strip.resize((width, rows), Image.Resampling.LANCZOS, box=(left, 0, right, rows))
    return strip.resize((width, target[0]), Image.Resampling.LANCZOS, box=(0, top, width, bottom))


def _reduces(box: Box, target: tuple[int, int]) -> bool:
    """Return whether a part of a picture is first shrunk by whole factors."""
    sides = (box[3] - box[1], box[2] - box[0])
    return any(int(side / count / REDUCING_GAP) > 1 for side, count in zip(sides, target, strict=True))


def plan(
    height: int,
    width: int,
    size: tuple[int, int] | None,
    fit: Fit,
    limits: MediaLimits | None,
    crop_position: float = 0.5,
) -> Plan:
    """Plan for frames of (height, width) pixels.

    Args:
        height, width: source size as displayed, pixels.
        size: (height, width) to reach, None to keep the source's.
        fit: how, see `MediaOptions`.
        limits: bounds, None for trusted files.
        crop_position: of the crop of "cover" along the side that is cut, from 0 (left or top) to 1.

    Raises:
        MediaError: "too-many-pixels" if the frames that come out are over `limits.kept_pixels`.
    """
    out = (height, width) if size is None else size
    if limits is not None and out[0] * out[1] > limits.kept_pixels:
        raise MediaError(
            "too-many-pixels",
            f"Frames of {out[0]}x{out[1]} pixels are over the model's limit of {limits.kept_pixels} pixels a frame; "
            "ask for a smaller `size`.",
            limit=limits.kept_pixels,
            actual=out[0] * out[1],
        )
    whole: Box = (0, 0, width, height)
    if size is None or size == (height, width):
        return Plan(height, width, (height, width), whole, Preprocess())
    if fit == "stretch":
        return Plan(height, width, size, whole, Preprocess(resize=size))
    ratios = (size[0] / height, size[1] / width)
    scale = max(ratios) if fit == "cover" else min(ratios)
    # The side that decides the scale is met exactly, whatever the rounding of the other does.
    scaled = tuple(
        side if ratio == scale else max(1, round(length * scale))
        for side, ratio, length in zip(size, ratios, (height, width), strict=True)
    )
    if fit == "contain":
        inner = (min(scaled[0], size[0]), min(scaled[1], size[1]))
        pad = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2, *size) if inner != size else None
        return Plan(height, width, inner, whole, Preprocess(resize=inner, pad=pad))
    resized = (max(scaled[0], size[0]), max(scaled[1], size[1]))
    top, left = int(crop_position * (resized[0] - size[0])), int(crop_position * (resized[1] - size[1]))
    # The crop is taken in source coordinates: a thin strip scaled up whole would be a bomb of its own.
    box = (
        left * width / resized[1],
        top * height / resized[0],
        (left + size[1]) * width / resized[1],
        (top + size[0]) * height / resized[0],
    )
    crop = (top, left, *size) if resized != size else None
    resize = resized if resized != (height, width) else None
    return Plan(height, width, size, box, Preprocess(resize=resize, crop=crop))
