"""The parts of BMPs that Pillow does not read, or not exactly: colours by masks, and profiles."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.limits import check_picture

if TYPE_CHECKING:
    from media.limits import MediaLimits

_FILE_HEADER = 14
_MASKED = (3, 6)  # compression: by three masks, or by four
_HALVED = (0x7C00, 0x3E0, 0x1F, 0)  # the masks of 16 bits without any
# Bytes of the headers from which on there are masks, one for alpha, and a profile.
_INFO_HEADER, _ALPHA_HEADER, _PROFILE_HEADER = 40, 56, 124
_PROFILE_PLACE, _EMBEDDED = 56, b"DEBM"
_PIXELS_AT_ONCE = 1 << 20


def read_masked(file: BinaryIO, limits: MediaLimits | None) -> Image.Image | None:
    """Read a picture with masks: RGB, or RGBA if some of it is not transparent, as in browsers.

    Args:
        file: a BMP; its position is lost.
        limits: bounds, None for trusted files.

    Returns:
        None for another kind of BMP.

    Raises:
        MediaError: it is too large.
        ValueError, struct.error: it is damaged.
    """
    file.seek(0)
    data = file.read()
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    is_halved = compression == 0 and bits == 16
    if header < _INFO_HEADER or not (is_halved or (compression in _MASKED and bits in (16, 32))):
        return None
    rows, is_top_down = abs(height), height < 0
    if rows == 0 or width <= 0:
        raise ValueError("The picture has no pixels.")
    check_picture(limits, rows, width, is_video=False)
    masks = _HALVED if is_halved else struct.unpack_from("<4I", data, _FILE_HEADER + _INFO_HEADER)
    if header < _ALPHA_HEADER and compression == _MASKED[0]:
        masks = (*masks[:3], 0)
    stored = np.frombuffer(data, f"<u{bits // 8}", rows * _row(width, bits), start).reshape(rows, -1)[:, :width]
    pixels = np.empty((rows, width, 4 if masks[3] else 3), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, rows, step):
        _unpack(stored[top : top + step], masks, pixels[top : top + step])
    if masks[3] and not pixels[..., 3].any():
        pixels = pixels[..., :3]  # a field that the writer left empty
    image = Image.fromarray(np.ascontiguousarray(pixels if is_top_down else pixels[::-1]))
    image.format = "BMP"
    return image


def embedded_profile(file: BinaryIO) -> bytes | None:
    """Return the colour profile of a BMP; the position of the file is lost."""
    file.seek(_FILE_HEADER)
    header = file.read(_PROFILE_HEADER)
    if len(header) < _PROFILE_HEADER or int.from_bytes(header[:4], "little") < _PROFILE_HEADER:
        return None
    if header[_PROFILE_PLACE : _PROFILE_PLACE + 4] != _EMBEDDED:
        return None
    place, size = struct.unpack_from("<2I", header, _PROFILE_PLACE + 56)
    file.seek(_FILE_HEADER + place)
    return file.read(size)


def _row(width: int, bits: int) -> int:
    """Return the pixels of a stored row, which is filled up to four bytes."""
    return -(-width * bits // 32) * 32 // bits


def _unpack(stored: NDArray[np.unsignedinteger], masks: Sequence[int], pixels: NDArray[np.uint8]) -> None:
    for channel in range(pixels.shape[-1]):
        mask = masks[channel]
        shift = (mask & -mask).bit_length() - 1 if mask else 0
        most = max(1, mask >> shift)
        samples = (stored & stored.dtype.type(mask & int(np.iinfo(stored.dtype).max))) >> shift
        pixels[..., channel] = samples if most == 255 else np.rint(samples * (255 / most))
