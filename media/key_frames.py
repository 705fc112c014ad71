"""Packets that decoding can begin at, by what they hold: some files call all of theirs so."""

from __future__ import annotations

from typing import Any

from media.h264 import HEAD_BYTES, length_bytes, units

_LOOKED_INTO = frozenset({"hevc", "mpeg4", "msmpeg4v2", "msmpeg4v3", "h263"})
_HEVC_LENGTH_PLACE = 21
_HEVC_SLICES, _HEVC_KEYS = range(32), range(16, 24)  # kinds of units
_MPEG4_FRAME = b"\0\0\1\xb6"
_H263_FORMAT, _H263_EXTENDED = 35, 7  # place of the picture's format in the bits of its header, and one of them


def is_key(codec: str, packet: Any, extradata: bytes | None) -> bool:
    """Return whether decoding can begin at a packet; FFmpeg looks into those of other codecs by itself.

    Args:
        codec: canonical name.
        packet: PyAV's.
        extradata: of the stream.
    """
    if not packet.is_keyframe or codec not in _LOOKED_INTO:
        return bool(packet.is_keyframe)
    head = bytes(memoryview(packet)[:HEAD_BYTES])
    match codec:
        case "hevc":
            return _is_hevc_key(head, extradata)
        case "mpeg4":
            return _is_intra(head[head.find(_MPEG4_FRAME) + len(_MPEG4_FRAME) :]) if _MPEG4_FRAME in head else True
        case "msmpeg4v2" | "msmpeg4v3":
            return _is_intra(head)
        case _:
            return _is_h263_key(head)


def _is_intra(frame: bytes) -> bool:
    """Return whether the two bits that begin a frame say that it refers to no other."""
    return frame[:1] < b"\x40"


def _is_hevc_key(head: bytes, extradata: bytes | None) -> bool:
    kinds = (unit[0] >> 1 & 0x3F for unit in units(head, length_bytes(extradata, _HEVC_LENGTH_PLACE)) if unit)
    return next((kind in _HEVC_KEYS for kind in kinds if kind in _HEVC_SLICES), True)


def _is_h263_key(head: bytes) -> bool:
    bits = f"{int.from_bytes(head[:12].ljust(12, bytes(1)), 'big'):096b}"[_H263_FORMAT:]
    if int(bits[:3], 2) != _H263_EXTENDED:
        return bits[3] == "0"
    kind = bits[24:27] if bits[3:6] == "001" else bits[6:9]  # what stands between is repeated now and then only
    return kind == "000"
