"""The colours of pictures and clips as sRGB on white."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_BT709, _UNSPECIFIED, _BT601 = 1, 2, 5  # matrices of ITU-T H.273
# Above these sides players take frames without a tag for high definition.
_SD_WIDTH, _SD_HEIGHT = 1279, 576


def on_white(picture: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Convert a picture to sRGB and composite it on white where there is alpha.

    Args:
        picture: 8 bits a channel, without a palette.
        profile: embedded colour profile, None if there is none.
    """
    if picture.mode not in ("RGBA", "LA"):
        return to_srgb(picture, profile)
    # A profile describes the colours without alpha, in the mode that they are stored in, and so comes before the white.
    *colours, alpha = picture.split()
    colour = to_srgb(Image.merge("RGB", colours) if len(colours) == 3 else colours[0], profile)
    colour.putalpha(alpha)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, colour).convert("RGB")


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile; one that is damaged or of another colour space is ignored, as in browsers."""
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None
        if converted is not None:
            return converted
    return picture.convert("RGB")


def assumed_matrix(frame: Any) -> int | None:
    """Return the matrix that players assume for a frame without a tag; None for one that has a tag."""
    if frame.colorspace != _UNSPECIFIED:
        return None
    return _BT709 if frame.width > _SD_WIDTH or frame.height > _SD_HEIGHT else _BT601


def frame_rgb(frame: Any) -> NDArray[np.uint8]:
    """Convert a decoded frame of a clip to uint8 sRGB (H, W, 3), on white where there is alpha."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", src_colorspace=assumed_matrix(frame), threads=1)
    return np.asarray(on_white(Image.fromarray(pixels))) if has_alpha else pixels
