"""Still images to squares of RGB."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.errors import TrainingError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
ORIENTATION = 0x0112  # EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def size(data: bytes) -> tuple[int, int]:
    """Width and height of an image, by its header.

    Raises:
        Exception: many kinds, for files that are no images.
    """
    with _open(data) as image:
        return image.size


def square(data: bytes, side: int, where: float) -> NDArray[np.uint8]:
    """Decode an image and cut a square that spans its shorter side, with antialiasing: uint8 (side, side, 3).

    Grey, palette and CMYK become RGB, transparency shows white, 16 bits become 8, EXIF orientation is obeyed, and of an
    animation the first picture is taken. Smaller images are enlarged.

    Args:
        data: a JPEG, PNG, WebP or BMP file.
        side: pixels of the square.
        where: place of the square along the longer side, from 0 (left or top) to 1.

    Raises:
        Exception: many kinds, for files that are damaged, no images, or larger than Pillow's MAX_IMAGE_PIXELS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata
        with _open(data) as image:
            # not left to Pillow's warning, as filters of warnings are shared by threads
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise TrainingError(f"its {image.width}x{image.height} pixels are too many")
            return _square(image, side, where)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:  # its own words are about an object in memory
        raise TrainingError(f"it is none of {', '.join(FORMATS)}") from error


def _square(image: Image.Image, side: int, where: float) -> NDArray[np.uint8]:
    width, height = image.size
    short = min(width, height)
    # JPEG decodes at 1/2, 1/4 or 1/8 of its size in less time; what is still too large is resized below
    image.draft(None, (width * side // short, height * side // short))
    picture = _plain(image)
    width, height = picture.size
    short = min(width, height)
    left, top = where * (width - short), where * (height - short)
    box = (left, top, left + short, top + short)
    small = picture.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3)
    if small.mode == "RGBA":
        ground = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(ground, small)
    upright = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    if upright is not None:
        small = small.transpose(upright)
    return np.asarray(small.convert("RGB"))


def _plain(image: Image.Image) -> Image.Image:
    """A mode in which resizing averages colours: no palettes, alpha only beside colours, 8 bits."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "La", "1") or "transparency" in image.info:
        return image.convert("RGBA")
    return image
