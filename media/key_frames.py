"""Packets that decoding can begin at, by what they hold: some files call all of theirs so."""

from __future__ import annotations

from typing import Any

from media.h264 import HEAD_BYTES, length_bytes, units

_MPEG = frozenset({"mpeg1video", "mpeg2video"})
_LOOKED_INTO = _MPEG | {"hevc", "vvc", "mpeg4", "msmpeg4v2", "msmpeg4v3", "h263"}
# Here or by FFmpeg. Of other codecs all packets may be called key frames while only the first one is.
KNOWN_BY_CONTENT = _LOOKED_INTO | {"h264", "vp8", "vp9", "av1", "ffv1", "theora", "png"}
HEVC_LENGTH_PLACE = 21
_SLICES = {"hevc": range(32), "vvc": range(12)}  # kinds of units
_KEYS = {"hevc": range(16, 24), "vvc": range(7, 10)}
# Kinds of slices that refer to nothing in front of the key frame that they follow, though shown before it.
_DECODABLE = {"hevc": (6, 7), "vvc": (2,)}
_MPEG_GROUP, _CLOSED = b"\0\0\1\xb8", 0x40  # its mark, and the bit of its fourth byte that says the same of its frames
# Decoders of these leave out frames that are shown before a key frame and refer to what is not there.
LEADING_CODECS = _MPEG | _DECODABLE.keys()
_MPEG_PICTURE, _MPEG_INTRA = b"\0\0\1\0", 1
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
        case "hevc" | "vvc":
            kind = _slice_kind(codec, head, _length_bytes(codec, extradata))
            return kind is None or kind in _KEYS[codec]
        case "mpeg1video" | "mpeg2video":
            picture = head[head.find(_MPEG_PICTURE) + len(_MPEG_PICTURE) :] if _MPEG_PICTURE in head else b""
            return len(picture) < 2 or picture[1] >> 3 & 7 == _MPEG_INTRA
        case "mpeg4":
            return _is_intra(head[head.find(_MPEG4_FRAME) + len(_MPEG4_FRAME) :]) if _MPEG4_FRAME in head else True
        case "msmpeg4v2" | "msmpeg4v3":
            return _is_intra(head)
        case _:
            return _is_h263_key(head)


class LeadingFrames:
    """A search for frames that are shown before the key frame that they follow, and can be decoded without others.

    Args:
        codec: canonical name.
        extradata: of the stream.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec, self._is_closed = codec, False
        self._width = _length_bytes(codec, extradata)

    def can_be_decoded(self, packet: Any) -> bool:
        """Return whether a frame could be such a one; packets of PyAV's come in file order, from a key frame on."""
        if self._codec not in LEADING_CODECS:
            return False
        head = bytes(memoryview(packet)[:HEAD_BYTES])
        if self._codec in _DECODABLE:
            return _slice_kind(self._codec, head, self._width) in _DECODABLE[self._codec]
        group = head.find(_MPEG_GROUP) + len(_MPEG_GROUP)
        if group >= len(_MPEG_GROUP):
            self._is_closed = bool(head[group + 3 : group + 4] and head[group + 3] & _CLOSED)
        return self._is_closed


def _length_bytes(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes before each unit of HEVC or VVC say how long it is, as `length_bytes`."""
    if codec == "vvc" and extradata and extradata[0]:
        return (extradata[0] >> 1 & 3) + 1
    return length_bytes(extradata, HEVC_LENGTH_PLACE)


def _slice_kind(codec: str, packet: bytes, width: int) -> int | None:
    """Return the kind of the first slice in a packet of HEVC or VVC."""
    for unit in units(packet, width):
        if len(unit) > 1:
            kind = unit[1] >> 3 if codec == "vvc" else unit[0] >> 1 & 0x3F
            if kind in _SLICES[codec]:
                return kind
    return None


def _is_intra(frame: bytes) -> bool:
    """Return whether the two bits that begin a frame say that it refers to no other."""
    return frame[:1] < b"\x40"


def _is_h263_key(head: bytes) -> bool:
    bits = f"{int.from_bytes(head[:12].ljust(12, bytes(1)), 'big'):096b}"[_H263_FORMAT:]
    if int(bits[:3], 2) != _H263_EXTENDED:
        return bits[3] == "0"
    kind = bits[24:27] if bits[3:6] == "001" else bits[6:9]  # what stands between is repeated now and then only
    return kind == "000"
