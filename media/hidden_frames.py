"""Packets of which no frame comes: references or parameters alone, and marks that the last frame is shown for long."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from media.bits import Bits
from media.h264 import HEAD_BYTES, LENGTH_PLACE, length_bytes, units
from media.key_frames import HEVC_LENGTH_PLACE

_VP8_SHOWN = 0x10
_H264_MESSAGES, _HEVC_MESSAGES = frozenset((6, 7, 8, 9, 12, 13)), range(32, 48)  # units that are no part of a picture
_LAYER, _FRAME = re.compile(rb"\0\0\x01[\x20-\x2f]"), b"\0\0\1\xb6"  # marks of MPEG-4
_HEADER_BYTES = 64
_EXTENDED_ASPECT, _GREY_SHAPE = 15, 3
_BUFFER_BITS = 79  # of the model of a decoder's buffer


class HiddenFrames:
    """A search for packets of which no frame comes, through the packets of a stream in file order.

    Args:
        codec: canonical name.
        extradata: of the stream.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec, self._extradata = codec, extradata
        self._time_bits: int | None = None
        self._kept_back = 0  # frames that share a packet with others come with the next marks
        self._learn(extradata or b"")

    def hides(self, packet: Any) -> bool:
        """Return whether a packet of PyAV's holds nothing to show."""
        match self._codec:
            case "vp8":
                return not memoryview(packet)[0] & _VP8_SHOWN
            case "h264" | "hevc":
                return not holds_picture(self._codec, packet, self._extradata)
            case "mpeg4":
                return not holds_picture("mpeg4", packet, None) or self._repeats(bytes(packet))
            case _:
                return False

    def _repeats(self, packet: bytes) -> bool:
        """Return whether a packet of MPEG-4 only says that the last frame is shown for longer."""
        self._learn(packet[:HEAD_BYTES])
        self._kept_back += max(0, packet.count(_FRAME) - 1)
        if self._time_bits is None:
            return False
        at = packet.index(_FRAME) + len(_FRAME)
        bits = Bits(packet[at : at + _HEADER_BYTES])
        with suppress(ValueError):
            bits.take(2)
            while bits.take(1):
                pass
            bits.take(1 + self._time_bits + 1)
            if not bits.take(1):
                is_kept_back, self._kept_back = self._kept_back > 0, max(0, self._kept_back - 1)
                return not is_kept_back
        return False

    def _learn(self, data: bytes) -> None:
        """Take how many bits of a frame of MPEG-4 state its time."""
        layer = _LAYER.search(data) if self._codec == "mpeg4" else None
        if layer is not None:
            with suppress(ValueError):
                self._time_bits = _time_bits(Bits(data[layer.end() : layer.end() + _HEADER_BYTES]))


def holds_picture(codec: str, packet: Any, extradata: bytes | None) -> bool:
    """Return whether a packet of H.264, HEVC or MPEG-4 holds a part of a picture, not parameters or messages alone.

    Args:
        codec: canonical name.
        packet: PyAV's.
        extradata: of the stream.
    """
    if codec == "mpeg4":
        return _FRAME in bytes(packet)
    if packet.size > HEAD_BYTES:
        return True
    if codec == "hevc":
        found = units(bytes(packet), length_bytes(extradata, HEVC_LENGTH_PLACE))
        kinds = {unit[0] >> 1 & 0x3F for unit in found if unit}
        return not kinds or not kinds.issubset(_HEVC_MESSAGES)
    kinds = {unit[0] & 0x1F for unit in units(bytes(packet), length_bytes(extradata, LENGTH_PLACE)) if unit}
    return not kinds or not kinds <= _H264_MESSAGES


def _time_bits(bits: Bits) -> int:
    """Read the header of a layer up to what its frames depend on."""
    bits.take(9)
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == _EXTENDED_ASPECT:
        bits.take(16)
    if bits.take(1):
        bits.take(3)
        if bits.take(1):
            bits.take(_BUFFER_BITS)
    if bits.take(2) == _GREY_SHAPE and version != 1:
        bits.take(4)
    bits.take(1)
    return max(1, (bits.take(16) - 1).bit_length())
