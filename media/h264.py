"""The part of H.264 that says when a decoder that begins in the middle of a clip shows whole frames."""

from __future__ import annotations

from collections.abc import Iterator

_START_CODE = b"\0\0\1"
_SLICES, _SEI = (1, 2, 5), 6
_RECOVERY_POINT = 6  # kind of SEI message

HEAD_BYTES = 4096  # messages come before the pixels; hostile ones may be many
LENGTH_PLACE = 4  # in the extradata, for `length_bytes`


def recovery_frames(packet: bytes, extradata: bytes | None) -> int:
    """Return after how many reference frames a key packet is made up for: some clips are refreshed bit by bit.

    Args:
        packet: its first `HEAD_BYTES` are enough.
        extradata: of the stream; says how units are told apart.
    """
    for unit in units(packet, length_bytes(extradata, LENGTH_PLACE)):
        kind = unit[0] & 0x1F if unit else 0
        if kind in _SLICES:
            return 0
        if kind == _SEI:
            for message, body in _messages(unit.replace(b"\0\0\3", b"\0\0")):
                if message == _RECOVERY_POINT:
                    return _exp_golomb(body)
    return 0


def length_bytes(extradata: bytes | None, place: int) -> int:
    """Return how many bytes before each unit of H.264 or HEVC say how long it is; 0 where marks are between them.

    Args:
        extradata: of the stream.
        place: of the byte there that says so.
    """
    if not extradata or extradata[0] != 1:
        return 0
    return (extradata[place] & 3) + 1 if len(extradata) > place else 4


def units(packet: bytes, width: int) -> Iterator[bytes]:
    """Yield the units of a packet; the last one may be cut off.

    Args:
        packet: its first bytes.
        width: by `length_bytes`.
    """
    if not width:
        yield from packet.split(_START_CODE)[1:]
        return
    at = 0
    while at + width < len(packet):
        size = int.from_bytes(packet[at : at + width], "big")
        yield packet[at + width : at + width + size]
        at += width + size


def _messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    at = 1
    while at + 2 < len(unit):
        numbers = []
        for _ in ("kind", "size"):
            number = 0
            while at < len(unit) and unit[at] == 0xFF:
                number, at = number + 255, at + 1
            numbers.append(number + (unit[at] if at < len(unit) else 0))
            at += 1
        kind, size = numbers
        yield kind, unit[at : at + size]
        at += size


def _exp_golomb(data: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = bits.find("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1 if zeros >= 0 else 0
