"""The way in which a container says that its video stream is to be shown: aspect, cropping, colours."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from media.colour import FULL, StatedColours
from media.ebml import ebml_size
from media.errors import MediaError
from media.orientation import UPRIGHT, Crop, Orientation, from_projection

# Ratios of sizes that were rounded to whole blocks: players show such pixels as squares.
_SQUARE_TOLERANCE = Fraction(1, 50)
_ROUNDED = 0.001
# A container, and in others a tag, of pixels whose fourth byte only fills them up.
_AVI, _WINDOWS_BITMAP = "avi", "\0\0\0\0"
# Elements of Matroska that hold others, and those that are looked for.
_MASTERS = frozenset(map(bytes.fromhex, ("18538067", "1654ae6b", "ae", "e0", "41e4", "7670")))
_CROPPED = tuple(map(bytes.fromhex, ("54cc", "54bb", "54dd", "54aa")))  # left, top, right, bottom
_EXTRA_DATA = bytes.fromhex("41ed")
_PROJECTION, _ROLL, _YAW = map(bytes.fromhex, ("7671", "7675", "7673"))
# Profiles of Dolby Vision whose pictures make no sense without its metadata, unless they say that they do.
_DOLBY_VISION_ONLY = (5, 10)


@dataclass(frozen=True)
class Presentation:
    """The way in which a stream is to be shown.

    Args:
        orientation: the way from stored to shown pixels, where frames do not state it: decoders of alpha forget it.
        aspect: width of a stored pixel over its height.
        crop: the edges that are not shown.
        colours: what the container says, for codecs that say nothing.
        is_full: the container states the full range of samples, and the codec has no way to.
        shows_alpha: a fourth channel is transparency.
        splits_fields: the fields of an interlaced frame come as frames of half its height.
    """

    orientation: Orientation
    aspect: Fraction
    crop: Crop
    colours: StatedColours
    is_full: bool
    shows_alpha: bool
    splits_fields: bool

    def shown(self, height: int, width: int, is_interlaced: bool = False) -> tuple[int, int]:
        """Return the size of a stored (height, width) frame as shown, not turned: no side is shrunk."""
        aspect = self.aspect / 2 if is_interlaced and self.splits_fields else self.aspect
        return squared(*self.crop.size(height, width), aspect)


def presentation(stream: Any) -> Presentation:
    """Read how a stream is to be shown; to be called before it is decoded, since decoders forget what they do not know.

    Raises:
        MediaError: "unsupported-codec" for colours that only Dolby Vision can show.
    """
    context, header = stream.codec_context, dict(_leaves(as_matroska(stream)))
    _check_dolby_vision(header.get(_EXTRA_DATA, b""))
    crop = Crop(*(int.from_bytes(header.get(name, b""), "big") for name in _CROPPED))
    orientation = UPRIGHT
    if not any(header.get(_PROJECTION, b"")):  # angles of a sphere are where to look, and turn nothing
        roll, yaw = (struct.unpack(">d", header.get(name, bytes(8)))[0] for name in (_ROLL, _YAW))
        orientation = from_projection(roll, is_mirrored=yaw != 0)
    colours = StatedColours(context.colorspace, context.color_primaries, context.color_trc)
    is_bitmap = stream.container.format.name == _AVI or context.codec_tag == _WINDOWS_BITMAP
    is_filled = context.name == "rawvideo" and is_bitmap
    aspect, splits_fields = _pixel_aspect(stream, crop), context.name == "hevc"
    is_full = context.name == "vp8" and context.color_range == FULL
    return Presentation(orientation, aspect, crop, colours, is_full, not is_filled, splits_fields)


def squared(height: int, width: int, aspect: Fraction) -> tuple[int, int]:
    """Return the size of a stored (height, width) frame with square pixels: one side is stretched, neither is shrunk.

    Args:
        aspect: width of a stored pixel over its height.
    """
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def _pixel_aspect(stream: Any, crop: Crop) -> Fraction:
    """Return the width of a stored pixel over its height, as the container or else the codec states it."""
    context = stream.codec_context
    stated = stream.sample_aspect_ratio or context.sample_aspect_ratio
    if not stated or stated <= 0 or abs(stated - 1) <= _SQUARE_TOLERANCE:
        return Fraction(1)
    height, width = crop.size(context.height, context.width)
    # FFmpeg makes this up where an mp4 states only the size that is shown, as if the whole frame filled it.
    is_made_up = crop != Crop() and abs(stated * context.width * height / (context.height * width) - 1) < _ROUNDED
    return Fraction(1) if is_made_up else Fraction(stated)


def as_matroska(stream: Any) -> bytes:
    """Return the header of a Matroska file with this stream: PyAV shows no cropping, but muxers copy it from any file.

    Returns:
        Nothing for a codec that Matroska does not hold.
    """
    header = io.BytesIO()
    try:
        # Without random identifiers, for which FFmpeg would open a device.
        with av.open(header, "w", format="matroska", container_options={"fflags": "bitexact"}) as copy:
            copy.add_stream_from_template(stream, opaque=True)
            copy.start_encoding()
            return header.getvalue()
    except (av.FFmpegError, ValueError):
        return b""


def _leaves(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of the innermost elements."""
    at = 0
    while at < len(data) and data[at]:
        content = at + 9 - data[at].bit_length()
        name = data[at:content]
        size, start = ebml_size(data, content)
        at = len(data) if size is None else start + size
        if name in _MASTERS:
            yield from _leaves(data[start:at])
        else:
            yield name, data[start:at]


def _check_dolby_vision(configuration: bytes) -> None:
    if len(configuration) < 5:
        return
    profile, compatible_with = configuration[2] >> 1, configuration[4] >> 4
    if profile in _DOLBY_VISION_ONLY and not compatible_with:
        detail = f"The clip's colours are those of Dolby Vision profile {profile}, which is not read; convert them."
        raise MediaError("unsupported-codec", detail)
