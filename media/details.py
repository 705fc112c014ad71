"""The description of a file for people: its storage, and the steps that show it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from PIL import Image, ImageCms

from media.colour import UNSPECIFIED, CodePoints, Colours, Gamma, Tags
from media.tone_mapping import RANGES

# Names of the code points of ITU-T H.273.
_STANDARDS = {
    1: "BT.709",
    5: "BT.601",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020 constant luminance",
    11: "DCI-P3",
    12: "Display P3",
}
_TRANSFERS = {
    1: "BT.709",
    4: "gamma 2.2",
    5: "gamma 2.8",
    6: "BT.601",
    8: "linear",
    13: "sRGB",
    14: "BT.2020",
    15: "BT.2020",
    16: "PQ",
    18: "HLG",
}
_RANGES = {1: "limited range", 2: "full range"}


@dataclass(frozen=True)
class FileDetails:
    """The properties of a file that decide how its pixels are shown.

    Args:
        container: name of the file format.
        height, width: size as stored, pixels.
        orientation: how the stored pixels are turned and mirrored.
        colour: pixel format and colour space as stored, and what is assumed where the file says nothing.
        aspect: width of a stored pixel over its height.
        is_animated: the file holds further frames, which are left out unless they are asked for.
    """

    container: str
    height: int
    width: int
    orientation: str
    colour: str
    aspect: Fraction = Fraction(1)
    is_animated: bool = False


def of_picture(image: Image.Image, orientation: str, profile: Colours) -> FileDetails:
    """Describe an opened picture."""
    colour = f"{_mode(image)}, {_profile(profile)}"
    is_animated = image.format in ("GIF", "PNG", "WEBP", "AVIF") and bool(getattr(image, "is_animated", False))
    return FileDetails(str(image.format), image.height, image.width, orientation, colour, is_animated=is_animated)


def of_clip(container: Any, frame: Any, orientation: str, aspect: Fraction, tags: Tags) -> FileDetails:
    """Describe an opened clip by its first kept frame.

    Args:
        container: PyAV's.
        frame: PyAV's.
        orientation: how the frame is turned and mirrored.
        aspect: width of a stored pixel over its height.
        tags: of its colour space.
    """
    matrix = _tag("matrix", tags.matrix, _STANDARDS)
    parts = [
        frame.format.name,
        f"no matrix, taken for {_STANDARDS[tags.matrix]}" if tags.is_matrix_assumed else matrix,
        _tag("primaries", tags.primaries, _STANDARDS),
        _tag("transfer", tags.transfer, _TRANSFERS),
        _RANGES.get(frame.color_range),
        _shown(tags.transfer) if tags.is_wide else None,
    ]
    colour = ", ".join(filter(None, parts))
    return FileDetails(container.format.long_name, frame.height, frame.width, orientation, colour, aspect)


def _mode(image: Image.Image) -> str:
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return f"{image.mode}, transparency shown on white" if transparent else image.mode


def _profile(profile: Colours) -> str:
    if isinstance(profile, Gamma):
        return f"gamma {profile.exponent:g}{' with primaries' if profile.chromaticities else ''}, converted to sRGB"
    if isinstance(profile, CodePoints):
        tags = _tag("primaries", profile.primaries, _STANDARDS), _tag("transfer", profile.transfer, _TRANSFERS)
        return ", ".join([*filter(None, tags), _shown(profile.transfer)])
    if not profile:
        return "no profile, taken for sRGB"
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "damaged profile, taken for sRGB"
    return f"profile {name or 'without a name'}"


def _shown(transfer: int) -> str:
    return "tone-mapped to sRGB" if transfer in RANGES else "converted to sRGB"


def _tag(name: str, value: int, names: dict[int, str]) -> str | None:
    return None if value == UNSPECIFIED else f"{name} {names.get(value, value)}"
