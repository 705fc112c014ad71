"""Checks and corrections of TIFFs: Pillow opens some that hold no picture, and mistakes the samples of others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from media.cost import TIFF_TILE, padded_size
from media.errors import MediaError
from media.limits import check_picture

if TYPE_CHECKING:
    from media.limits import MediaLimits

# Tags; cameras set some of them in raw files, whose first picture is a preview.
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES = 0x00FE, 0x0100, 0x0101, 0x0102, 0x0106, 0x011C
_COLOUR_MAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 0x0140, 0x0152, 0x0153, 0xC612
_SAMPLES = 0x0115
_MAX_PADDING = 2
_REDUCED, _WHITE_IS_ZERO, _BLACK_IS_ZERO, _YCBCR, _SEPARATE, _SIGNED = 1, 0, 1, 6, 2, 2
_PREMULTIPLIED, _STRAIGHT = 1, 2
_DEEP = ("RGB", "RGBA", "CMYK")
# Pillow knows white as zero in 16 bits of the other byte order only.
TiffImagePlugin.OPEN_INFO[(TiffImagePlugin.MM, _WHITE_IS_ZERO, (1,), 1, (16,), ())] = ("I;16B", "I;16B")
# It knows no grey of 16 bits with alpha, whose four bytes are read as four channels.
_GREY_ALPHA_SAMPLES = 2
for _order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for _extra in (_PREMULTIPLIED, _STRAIGHT):
        TiffImagePlugin.OPEN_INFO[(_order, _BLACK_IS_ZERO, (1,), 1, (16, 16), (_extra,))] = ("RGBA", "RGBA")


def check_tiff(image: Any, limits: MediaLimits | None) -> None:
    """Refuse what a TIFF may hold besides a picture to look at, and tiles that are far larger than their picture.

    Args:
        image: an opened file.
        limits: bounds, None for trusted files.

    Raises:
        MediaError: "unsupported-container" or "too-many-pixels".
        DecompressionBombError: a trusted file is too large.
    """
    tags = image.tag_v2
    height, width = padded_size(tags[_HEIGHT], tags[_WIDTH], *(int(tags.get(tag, 0)) for tag in TIFF_TILE))
    if height * width > _MAX_PADDING * tags[_HEIGHT] * tags[_WIDTH]:
        check_picture(limits, height, width, is_video=False)
        if height * width > 2 * (Image.MAX_IMAGE_PIXELS or height * width):
            raise Image.DecompressionBombError(f"Tiles of {height}x{width} pixels.")
    if tags.get(_SUBFILE_TYPE, 0) & _REDUCED or _DNG_VERSION in tags:
        detail = "The TIFF holds a camera's raw picture; develop it into a PNG, JPEG or plain TIFF."
        raise MediaError("unsupported-container", detail)
    if image.mode in ("F", "I") or _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        detail = "The TIFF holds numbers whose range is a guess; accepted are 1, 8 and 16 bits a channel."
        raise MediaError("unsupported-container", detail)


def correct_tiff(image: Any) -> None:
    """Correct how Pillow is going to read the samples of an opened file."""
    tags = image.tag_v2
    raw = None
    if tags.get(_PHOTOMETRIC) == _YCBCR:
        raw, image._mode = "RGBX", "RGB"  # chroma may be stored once for several pixels
    elif _is_grey_alpha(image):
        if tags.get(_PLANES) == _SEPARATE:
            raise ValueError("Unsupported planes of 16 bits.")
        raw = "RGBA"  # in the byte order of the machine, by libtiff
    elif 16 in tags.get(_BITS_PER_SAMPLE, ()) and tags.get(_PLANES) == _SEPARATE and image.mode in _DEEP:
        raw = "RGBa;16N" if tags.get(_EXTRA_SAMPLES) == (_PREMULTIPLIED,) else f"{image.mode};16N"
    if raw is not None and not image.use_load_libtiff:
        # Pillow's own decoder, of files without compression, would take their bytes for samples.
        image.use_load_libtiff = True
        stored = (0, 0, tags[_WIDTH], tags[_HEIGHT])  # the size that Pillow states is turned already
        image.tile = [ImageFile._Tile("libtiff", stored, 0, (raw, False, tags.offset))]
    colours = tags.get(_COLOUR_MAP, ())
    if image.mode in ("P", "PA") and colours and max(colours) < 256:  # old writers did not scale them to 16 bits
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def grey_alpha(image: Any) -> Image.Image:
    """Return a loaded grey picture of 16 bits with alpha in 8 bits; any other picture as it is."""
    if not _is_grey_alpha(image):
        picture: Image.Image = image
        return picture
    grey, alpha = (image.getchannel(name) for name in ("GA" if sys.byteorder == "little" else "RB"))
    mode = "La" if image.tag_v2.get(_EXTRA_SAMPLES) == (_PREMULTIPLIED,) else "LA"
    return Image.merge(mode, (grey, alpha))


def _is_grey_alpha(image: Any) -> bool:
    return image.mode == "RGBA" and getattr(image, "tag_v2", {}).get(_SAMPLES) == _GREY_ALPHA_SAMPLES


def deep_grey(image: Any) -> NDArray[np.int64]:
    """Return the samples of a grey picture of 16 bits in any format, white as the largest."""
    deep = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_BITS_PER_SAMPLE) == (12,):
        deep = deep * 0xFFFF // 0xFFF  # Pillow leaves them at their depth
    return 0xFFFF - deep if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else deep
