"""The eight orientations in which cameras store pictures and clips, and the edges that are not shown."""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MATRIX = Struct("=9i")  # FFmpeg keeps display matrices in the byte order of the machine


class Crop(NamedTuple):
    """The pixels of a frame that are not shown at its edges."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that is left of a frame; frames of which nothing would be left are whole."""
        rows, columns = height - self.top - self.bottom, width - self.left - self.right
        return (rows, columns) if rows > 0 and columns > 0 else (height, width)

    def frame(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Cut a frame (H, W, C)."""
        height, width = pixels.shape[:2]
        if self.size(height, width) == (height, width):
            return pixels
        return pixels[self.top : height - self.bottom, self.left : width - self.right]

    def picture(self, image: Image.Image) -> Image.Image:
        """Cut a picture of any mode."""
        height, width = self.size(image.height, image.width)
        whole = (height, width) == (image.height, image.width)
        return image if whole else image.crop((self.left, self.top, self.left + width, self.top + height))


class Orientation(NamedTuple):
    """The way from stored to shown pixels.

    Args:
        swap: rows and columns change places.
        rows: the rows are then reversed.
        columns: the columns are then reversed.
        crop: of a stored picture, before all else.
    """

    swap: bool = False
    rows: bool = False
    columns: bool = False
    crop: Crop = Crop()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the shown (height, width) of stored ones."""
        height, width = self.crop.size(height, width)
        return (width, height) if self.swap else (height, width)

    def frame(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turn and mirror a frame: (H, W, C) to the same, contiguous."""
        pixels = self.crop.frame(pixels)
        if self.swap:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1])

    def area(
        self, box: tuple[float, float, float, float], width: int, height: int
    ) -> tuple[float, float, float, float]:
        """Return where a part (left, top, right, bottom) of a stored, whole picture of (width, height) is shown."""
        left, top, right, bottom = box
        if self.swap:
            left, top, right, bottom, width, height = top, left, bottom, right, height, width
        if self.rows:
            top, bottom = height - bottom, height - top
        if self.columns:
            left, right = width - right, width - left
        return left, top, right, bottom

    def __str__(self) -> str:
        """Name the steps for people."""
        name = _NAMES.get(self._replace(crop=Crop()), "upright")
        return name if self.crop == Crop() else f"{name}, cut at its edges"

    def picture(self, image: Image.Image) -> Image.Image:
        """Turn and mirror a picture of any mode."""
        image, how = self.crop.picture(image), self._replace(crop=Crop())
        return image if how == UPRIGHT else image.transpose(_TRANSPOSES[how])


UPRIGHT = Orientation()
_TRANSPOSES = {
    Orientation(columns=True): Image.Transpose.FLIP_LEFT_RIGHT,
    Orientation(rows=True, columns=True): Image.Transpose.ROTATE_180,
    Orientation(rows=True): Image.Transpose.FLIP_TOP_BOTTOM,
    Orientation(swap=True): Image.Transpose.TRANSPOSE,
    Orientation(swap=True, columns=True): Image.Transpose.ROTATE_270,
    Orientation(swap=True, rows=True, columns=True): Image.Transpose.TRANSVERSE,
    Orientation(swap=True, rows=True): Image.Transpose.ROTATE_90,
}
_NAMES = dict(
    zip(
        _TRANSPOSES,
        (
            "mirrored left to right",
            "turned by 180 degrees",
            "mirrored top to bottom",
            "transposed",
            "turned by 90 degrees clockwise",
            "transposed along the other diagonal",
            "turned by 90 degrees anticlockwise",
        ),
        strict=True,
    )
)
_EXIF = dict(enumerate(_TRANSPOSES, start=2))


def from_exif(value: int) -> Orientation:
    """Return the orientation of an EXIF tag, 1 to 8; anything else counts as upright, as in browsers."""
    return _EXIF.get(value, UPRIGHT)


def from_projection(degrees: float, is_mirrored: bool) -> Orientation:
    """Return the orientation of a projection of Matroska: mirrored left to right, then turned anticlockwise."""
    turns = round(degrees / 90) % 4
    swap, rows, columns = turns in (1, 3), turns in (1, 2), turns in (2, 3)
    return Orientation(swap, rows ^ (is_mirrored and swap), columns ^ (is_mirrored and not swap))


def from_matrix(matrix: bytes) -> Orientation:
    """Return the orientation of a display matrix of FFmpeg; other angles go to the nearest quarter turn."""
    if len(matrix) < _MATRIX.size:
        return UPRIGHT
    # A stored point (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    a, b, _, c, d, *_ = _MATRIX.unpack_from(matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, rows=b < 0, columns=c < 0)
    return Orientation(rows=d < 0, columns=a < 0)
