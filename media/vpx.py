"""Sizes of frames of VP8 and VP9, by their headers: libvpx takes memory for any size before it looks at the pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from media.bits import Bits

_VP8_MARK, _VP8_SIDE = b"\x9d\x01\x2a", 0x3FFF
_VP9_FRAME, _VP9_SYNC, _VP9_RGB = 2, 0x498342, 7
_REFERENCES = 3
_HEADER_BYTES = 32  # more than any header has before its size


def frame_sizes(codec: str, packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield the (height, width) that frames state; most have that of a frame before, and state none.

    Args:
        codec: "vp8" or "vp9".
        packet: with one frame, or in VP9 with several.
    """
    if codec == "vp8":
        if packet[3:6] == _VP8_MARK and len(packet) >= 10:
            width, height = struct.unpack_from("<2H", packet, 6)
            yield height & _VP8_SIDE, width & _VP8_SIDE
        return
    for frame in _vp9_frames(packet):
        with suppress(ValueError):
            size = _vp9_size(Bits(frame[:_HEADER_BYTES]))
            if size is not None:
                yield size


def _vp9_frames(packet: bytes) -> Iterator[bytes]:
    """Yield the frames of a packet; what is behind several says how long each is."""
    mark = packet[-1] if packet else 0
    count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = packet[-2 - width * count :]
    if mark >> 5 != 6 or len(index) != 2 + width * count or index[0] != mark:
        yield packet
        return
    at = 0
    for number in range(count):
        place = 1 + width * number
        size = int.from_bytes(index[place : place + width], "little")
        yield packet[at : at + size]
        at += size


def _vp9_size(bits: Bits) -> tuple[int, int] | None:
    """Return the (height, width) in a header.

    Raises:
        ValueError: it is damaged.
    """
    if bits.take(2) != _VP9_FRAME:
        return None
    profile = bits.take(1) | bits.take(1) << 1
    if profile == 3:
        bits.take(1)
    if bits.take(1):  # shows a frame from before
        return None
    is_inter, is_shown, is_resilient = (bits.take(1) for _ in range(3))
    is_intra_only = False
    if is_inter:
        is_intra_only = not is_shown and bool(bits.take(1))
        if not is_resilient:
            bits.take(2)
    if not is_inter or is_intra_only:
        if bits.take(24) != _VP9_SYNC:
            return None
        if not is_inter or profile > 0:
            _pass_colours(bits, profile)
    if is_inter:
        bits.take(8)
        if not is_intra_only:
            bits.take(4 * _REFERENCES)
            if any(bits.take(1) for _ in range(_REFERENCES)):
                return None
    width, height = bits.take(16) + 1, bits.take(16) + 1
    return height, width


def _pass_colours(bits: Bits, profile: int) -> None:
    if profile >= 2:
        bits.take(1)
    has_subsampling = profile in (1, 3)
    if bits.take(3) != _VP9_RGB:
        bits.take(1)
        if has_subsampling:
            bits.take(3)
    elif has_subsampling:
        bits.take(1)
