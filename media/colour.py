"""The colours of pictures and clips as sRGB on white."""

from __future__ import annotations

import io
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from media import tone_mapping
from media.errors import MediaError
from media.ycgco import YCGCO, to_rgb

# Matrices of ITU-T H.273. Those derived from primaries, and with constant luminance, are shown by the nearest others.
_RGB, _BT709, UNSPECIFIED, _BT601 = 0, 1, 2, 5
_DERIVED, _BT2020_CONSTANT = (12, 13), 10
_UNREADABLE = (11, 14)  # of light by PQ, which need more than a matrix
_LIMITED, FULL = 1, 2  # ranges of samples
_BLACK_CODE = 16 << 8  # of the limited range in FFmpeg's 16-bit RGB
_CICP, _CICP_LAYOUT = b"\0\0\0\4cICP", Struct(">BB")  # the mark before the code points of a PNG
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
_SAME = 0.005
# Above these sides players take frames without a tag for high definition.
_SD_WIDTH, _SD_HEIGHT = 1279, 576


class CodePoints(NamedTuple):
    """The colour space of a picture as code points of ITU-T H.273."""

    primaries: int
    transfer: int

    @property
    def is_wide(self) -> bool:
        """Return whether the colours go beyond sRGB in gamut or in range."""
        return self.transfer in tone_mapping.RANGES or self.primaries in tone_mapping.WIDE_PRIMARIES

    @property
    def is_srgb(self) -> bool:
        """Return whether this is sRGB, or stands for it; players of clips take powers for it, but browsers do not."""
        return not self.is_wide and self.transfer not in tone_mapping.POWERS


class Gamma(NamedTuple):
    """The colour space of a PNG without a profile.

    Args:
        exponent: code values are light to this power.
        chromaticities: x and y of white, red, green and blue; None for those of sRGB.
    """

    exponent: float
    chromaticities: tuple[float, ...] | None

    @property
    def is_srgb(self) -> bool:
        """Return whether this is sRGB, or stands for it: writers state its exponent with two to five digits."""
        return tone_mapping.is_srgb_exponent(self.exponent) and (
            self.chromaticities is None
            or max(abs(one - other) for one, other in zip(self.chromaticities, _SRGB, strict=True)) < _SAME
        )


Colours = bytes | CodePoints | Gamma | None  # an embedded profile, or what stands in its place


def code_points(head: bytes) -> CodePoints | None:
    """Return the code points of a PNG, which Pillow does not read.

    Args:
        head: the first bytes of the file.
    """
    at = head.find(_CICP) + len(_CICP)
    if at < len(_CICP) or len(head) < at + _CICP_LAYOUT.size:
        return None
    return CodePoints(*_CICP_LAYOUT.unpack_from(head, at))


def on_white(picture: Image.Image, profile: Colours = None) -> Image.Image:
    """Convert a picture to sRGB and composite it on white where there is alpha.

    Args:
        picture: 8 bits a channel, without a palette.
        profile: of its colours.
    """
    if picture.mode not in ("RGBA", "LA"):
        return to_srgb(picture, profile)
    # A profile describes the colours without alpha, in the mode that they are stored in, and so comes before the white.
    *colours, alpha = picture.split()
    colour = to_srgb(Image.merge("RGB", colours) if len(colours) == 3 else colours[0], profile)
    colour.putalpha(alpha)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, colour).convert("RGB")


def to_srgb(picture: Image.Image, profile: Colours) -> Image.Image:
    """Apply an embedded profile; one that is damaged or of another colour space is ignored, as in browsers."""
    if isinstance(profile, Gamma):
        pixels = np.asarray(picture.convert("RGB"))
        return Image.fromarray(tone_mapping.power_to_srgb(pixels, profile.exponent, profile.chromaticities))
    if isinstance(profile, CodePoints):
        codes = np.asarray(picture.convert("RGB")).astype(np.uint16) << np.uint16(8)
        return Image.fromarray(tone_mapping.to_srgb(codes, profile.transfer, profile.primaries))
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if picture.mode == "L" and embedded.profile.xcolor_space.strip() == "RGB":
                picture = picture.convert("RGB")  # scanners write greys with the profile of their colours
            converted = ImageCms.profileToProfile(picture, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None
        if converted is not None:
            return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@dataclass(frozen=True)
class Tags:
    """The colour space of a clip in the code points of ITU-T H.273, 2 for unspecified.

    Args:
        matrix: of luma and chroma; where a file states none, what players assume.
        is_matrix_assumed: the file states none.
        primaries, transfer: of the colours.
    """

    matrix: int
    is_matrix_assumed: bool
    primaries: int
    transfer: int

    @property
    def is_wide(self) -> bool:
        """Return whether the colours go beyond sRGB in gamut or in range."""
        return CodePoints(self.primaries, self.transfer).is_wide


class StatedColours(NamedTuple):
    """The colour space that a container states, in the code points of ITU-T H.273."""

    matrix: int
    primaries: int
    transfer: int


def tags_of(frame: Any, stated: StatedColours) -> Tags:
    """Return the colour space of a frame.

    Args:
        frame: PyAV's; its tags are those of the video stream itself.
        stated: by the container, for what the stream leaves open.

    Raises:
        MediaError: "unsupported-codec".
    """
    # That of RGB says nothing of luma and chroma: some muxers write it for want of another.
    unsaid = (UNSPECIFIED,) if frame.format.is_rgb else (UNSPECIFIED, _RGB)
    matrix, primaries, transfer = (
        next((value for value in values if value not in nothing), UNSPECIFIED)
        for values, nothing in (
            ((frame.colorspace, stated.matrix), unsaid),
            ((frame.color_primaries, stated.primaries), (UNSPECIFIED,)),
            ((frame.color_trc, stated.transfer), (UNSPECIFIED,)),
        )
    )
    if matrix in _UNREADABLE:
        detail = f"The clip's colours are stored by matrix {matrix} of ITU-T H.273, which is not read; convert them."
        raise MediaError("unsupported-codec", detail)
    if matrix in _DERIVED:
        matrix = tone_mapping.BT2020 if primaries == tone_mapping.BT2020 else _BT709
    elif matrix == _BT2020_CONSTANT:
        matrix = tone_mapping.BT2020
    is_assumed = matrix == UNSPECIFIED
    if transfer in tone_mapping.RANGES and primaries == UNSPECIFIED:
        primaries = tone_mapping.BT2020
    if is_assumed:
        is_hd = frame.width > _SD_WIDTH or frame.height > _SD_HEIGHT
        matrix = tone_mapping.BT2020 if transfer in tone_mapping.RANGES else _BT709 if is_hd else _BT601
    return Tags(matrix, is_assumed, primaries, transfer)


def frame_rgb(frame: Any, tags: Tags, shows_alpha: bool = True) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Convert a decoded frame of a clip to RGB (H, W, 3), on white where there is alpha.

    Args:
        frame: PyAV's.
        tags: of its colours.
        shows_alpha: a fourth channel is transparency.

    Returns:
        uint8 sRGB; or uint16 where `tags.is_wide`, to be resampled and then made sRGB by `tone_mapping`.
    """
    has_alpha = shows_alpha and any(component.is_alpha for component in frame.format.components)
    is_deep = any(component.bits > 8 for component in frame.format.components)
    if tags.matrix == YCGCO:
        return to_rgb(frame, tone_mapping.WHITE_CODE if tags.is_wide else 255)
    is_grey = frame.format.name.startswith("gray")
    is_limited_grey = is_grey and frame.color_range == _LIMITED
    is_full = frame.color_range == FULL or frame.format.is_rgb or (is_grey and not is_limited_grey)
    is_sixteen = tags.is_wide or (not has_alpha and (is_deep or is_limited_grey))
    kind = ("rgba64le" if has_alpha else "rgb48le") if is_sixteen else "rgba" if has_alpha else "rgb24"
    matrix = None if frame.colorspace == tags.matrix else tags.matrix
    pixels = frame.to_ndarray(format=kind, src_colorspace=matrix, threads=1)
    alpha = pixels[..., 3:] if has_alpha else None
    if is_sixteen and is_full:
        pixels = pixels - (pixels >> 8)  # FFmpeg's white is not `tone_mapping.WHITE_CODE` here
    if alpha is not None:
        if is_sixteen:
            shown = tone_mapping.to_srgb(pixels[..., :3], tags.transfer, tags.primaries)
            pixels = np.dstack([shown, (alpha >> 8).astype(np.uint8)])
        return np.asarray(on_white(Image.fromarray(pixels)))
    if is_limited_grey:  # FFmpeg takes all greys for those of the full range
        spread = (pixels.astype(np.float32) - _BLACK_CODE) * np.float32(255 / 219)
        pixels = spread.clip(0, tone_mapping.WHITE_CODE).astype(np.uint16)
    if is_sixteen and not tags.is_wide:  # FFmpeg's own eight bits are rounded down
        return (np.minimum(pixels, tone_mapping.WHITE_CODE) + np.uint16(128) >> 8).astype(np.uint8)
    return pixels
