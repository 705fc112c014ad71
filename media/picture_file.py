"""Picture files as Pillow opens them, corrected where browsers read them differently."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import AvifImagePlugin, Image

from media import avif
from media.bmp import embedded_profile, read_masked
from media.colour import Colours, Gamma, code_points
from media.errors import MediaError
from media.jpeg import check_jpeg
from media.limits import check_picture
from media.orientation import UPRIGHT, Orientation, from_exif
from media.png import scale_key, without_faulty_chunks
from media.tiff import check_tiff, correct_tiff, deep_grey, grey_alpha

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

_UNREAD = ("Unsupported", "raw mode")  # words of Pillow's errors
_ORIENTATION = 0x0112
_HEAD_BYTES = 1 << 16  # what comes before the pixels, but for very large profiles
_RIFF_HEAD_BYTES = 12
_WEBP_FLAGS, _WEBP_ANIMATED, _WEBP_ALPHA = 20, 0x02, 0x10  # their place in the file, and two of them


@contextmanager
def reading(media_type: str, limits: MediaLimits | None) -> Iterator[None]:
    """Turn whatever Pillow raises into a problem."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Of trusted files Pillow refuses those of twice what it warns of.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) if limits is None else limits.image_pixels
        raise MediaError("too-many-pixels", f"A picture may have {limit} pixels; this one has more.", limit) from error
    except Exception as error:  # damaged pictures raise OSError, SyntaxError, ValueError, struct.error and more
        why = "it is damaged or cut off"
        if isinstance(error, Image.UnidentifiedImageError) or any(word in str(error) for word in _UNREAD):
            why += ", or stores its pixels in a way that is not read"
        raise MediaError("corrupt-media", f"The {media_type} file cannot be decoded: {why}.") from error


def open_picture(file: BinaryIO, media_type: str, limits: MediaLimits | None) -> Image.Image:
    """Read the header with one pinned format and check the size that it states."""
    masked = read_masked(file, limits) if media_type == "image/bmp" else None
    if masked is not None:
        return masked
    file.seek(0)
    image = _open_webp(file) if media_type == "image/webp" else _open(file, media_type)
    check_picture(limits, image.height, image.width, is_video=False)
    if image.format == "TIFF":
        check_tiff(image, limits)
        correct_tiff(image)
    scale_key(image)
    return image


def _open(file: BinaryIO, media_type: str) -> Image.Image:
    source = io.BytesIO(without_faulty_chunks(file.read())) if media_type == "image/png" else file
    if media_type == "image/jpeg":
        check_jpeg(_first_bytes(file, _HEAD_BYTES))
    return Image.open(source, formats=(FORMATS[media_type],))


def _open_webp(file: BinaryIO) -> Image.Image:
    formats = (FORMATS["image/webp"],)
    try:
        return Image.open(_with_alpha(file), formats=formats)
    except (ValueError, OSError):
        file.seek(0)
        return Image.open(io.BytesIO(_sized(file.read())), formats=formats)


def _with_alpha(file: BinaryIO) -> BinaryIO:
    """Return an animated WebP that owns up to alpha: what its frames leave free is transparent, not black."""
    head = file.read(_WEBP_FLAGS + 1)
    if head[12:16] == b"VP8X" and head[-1] & _WEBP_ANIMATED and not head[-1] & _WEBP_ALPHA:
        return io.BytesIO(head[:-1] + bytes([head[-1] | _WEBP_ALPHA]) + file.read())
    file.seek(0)
    return file


def _sized(data: bytes) -> bytes:
    """Return a WebP of one picture with its true size: browsers look at none, and need no byte that fills it up.

    Raises:
        ValueError, struct.error: the file is cut off, or an animation, whose last frames may be missing.
    """
    end, size = _RIFF_HEAD_BYTES, 0
    while end < len(data):
        (size,) = struct.unpack_from("<I", data, end + 4)
        end += 8 + size + size % 2
    if end > len(data) + size % 2 or (data[12:16] == b"VP8X" and data[_WEBP_FLAGS] & _WEBP_ANIMATED):
        raise ValueError("The file is cut off.")
    return data[:4] + (end - 8).to_bytes(4, "little") + data[8:].ljust(end - 8, b"\0")


def without_empty_alpha(image: Image.Image) -> Image.Image:
    """Return a picture that is opaque everywhere without its alpha channel."""
    is_empty = image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255)
    return image.convert(image.mode[:-1]) if is_empty else image


def orientation(image: Image.Image, file: BinaryIO | None = None) -> Orientation:
    """Read the EXIF orientation, and what of an AVIF is shown; damaged metadata count for nothing, as in browsers.

    Args:
        image: an opened picture.
        file: that it was opened from, which alone says what of an AVIF is shown; its position is kept.

    Raises:
        OSError: the pixels of a PNG, which are decoded, are damaged.
    """
    if image.format == "TIFF":
        return UPRIGHT  # Pillow turns it while loading, and states its size as turned
    if image.format == "PNG":
        image.load()  # reads what stands behind the pixels; damaged ones must fail here, since Pillow says so only once
    try:
        # Pillow would go on to XMP and texts, which editors leave behind as they were: nobody else turns by them.
        exif = Image.Exif()
        exif.load(image.info["exif"])
        upright = from_exif(int(exif.get(_ORIENTATION, 1)))
    except Exception:
        upright = UPRIGHT
    if image.format == "AVIF" and file is not None:
        properties = avif.shown_properties(_first_bytes(file))
        return upright._replace(crop=avif.clean_aperture(properties, image.height, image.width))
    return upright


def profile_of(image: Image.Image, file: BinaryIO, media_type: str) -> Colours:
    """Return the colour profile of an opened picture, or what stands in its place."""
    profile = image.info.get("icc_profile")
    if media_type == "image/bmp":
        return embedded_profile(file)
    if profile and media_type == "image/avif":
        return profile
    points = None
    if media_type == "image/avif":
        points = avif.code_points(avif.shown_properties(_first_bytes(file)))
    elif media_type == "image/png":
        points = code_points(_first_bytes(file, _HEAD_BYTES))
    if points is not None:
        return None if points.is_srgb else points
    exponent = image.info.get("gamma")
    if profile or media_type != "image/png" or "srgb" in image.info or not exponent:
        return profile
    gamma = Gamma(exponent, image.info.get("chromaticity"))
    return None if gamma.is_srgb else gamma


def _first_bytes(file: BinaryIO, size: int = -1) -> bytes:
    """Return the first bytes of a file, or all, whose position is kept."""
    position = file.tell()
    file.seek(0)
    head = file.read(size)
    file.seek(position)
    return head


def continuous(image: Image.Image) -> Image.Image:
    """Return the picture in a mode that can be resampled: no palette or bitmap, 8 bits a channel, an alpha channel."""
    image, key = grey_alpha(image), image.info.get("transparency")
    if image.mode.startswith("I"):
        deep = deep_grey(image)
        grey = Image.fromarray((deep >> 8).astype(np.uint8))
        if key is not None:
            grey.putalpha(Image.fromarray((deep != key) * np.uint8(255)))
        return grey
    if image.mode in ("RGBa", "La"):  # premultiplied
        return image.convert(image.mode.upper())
    if image.mode in ("1", "L") and key is not None:
        return image.convert("LA")  # still grey, as an embedded profile expects
    if image.mode in ("P", "PA") or key is not None:
        return image.convert("RGB" if image.mode == "P" and key is None else "RGBA")
    return image.convert("L") if image.mode == "1" else image
