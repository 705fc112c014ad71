"""Fields of H.264: pictures of every second row, two of which, often in a packet each, make up a frame."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from media.bits import Bits
from media.h264 import HEAD_BYTES, LENGTH_PLACE, length_bytes, units

_SLICES, _SEQUENCE, _PICTURE = (1, 2, 5), 7, 8  # kinds of units
_HEAD_BYTES, _EXTRADATA_BYTES = 1024, 2**16  # no parameters are longer; hostile ones may be
# Profiles whose sequences state their format of chroma, and the one that may decode its planes apart.
_WITH_CHROMA = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_FULL_CHROMA = 3
_SMALL_LISTS, _LISTS, _LISTS_OF_FULL_CHROMA = 6, 8, 12  # of scaling


class _Sequence(NamedTuple):
    """The part of a sequence's parameters that the header of a slice depends on."""

    number_bits: int
    has_separate_planes: bool
    has_fields: bool


class _Field(NamedTuple):
    number: int
    is_bottom: bool


class FieldPairs:
    """A search for packets that hold the second field of a frame, through the packets of a stream in file order.

    Args:
        extradata: of the stream.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._width = length_bytes(extradata, LENGTH_PLACE)
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}  # by picture parameters
        self._first: _Field | None = None
        for unit in _parameters((extradata or b"")[:_EXTRADATA_BYTES], self._width):
            self._learn(unit)

    def completes(self, packet: Any) -> bool:
        """Return whether a packet of PyAV's only completes the frame of the one before."""
        has_fields = not self._sequences or any(sequence.has_fields for sequence in self._sequences.values())
        if not (has_fields or packet.is_keyframe):  # only there can a sequence begin that has some
            return False
        field = None
        for unit in units(bytes(memoryview(packet)[:HEAD_BYTES]), self._width):
            self._learn(unit)
            if unit and unit[0] & 0x1F in _SLICES:
                field = self._field(unit)
                break
        first = self._first
        is_second = field is not None and first == (field.number, not field.is_bottom)
        self._first = None if is_second else field
        return is_second

    def _learn(self, unit: bytes) -> None:
        """Take the parameters of a sequence or of pictures; damaged ones say nothing."""
        kind = unit[0] & 0x1F if unit else 0
        with suppress(ValueError):
            if kind == _SEQUENCE:
                self._sequences.update([_sequence(unit)])
            elif kind == _PICTURE:
                bits = _Bits(unit[1:])
                picture, sequence = bits.golomb(), bits.golomb()
                self._sequence_of[picture] = sequence

    def _field(self, unit: bytes) -> _Field | None:
        """Read the header of a slice; None of a whole frame."""
        bits = _Bits(unit[1:32])
        try:
            bits.golomb()  # its first block
            bits.golomb()  # its kind
            sequence = self._sequences.get(self._sequence_of.get(bits.golomb(), -1))
            if sequence is None or not sequence.has_fields:
                return None
            bits.take(2 * sequence.has_separate_planes)
            number = bits.take(sequence.number_bits)
            return _Field(number, bool(bits.take(1))) if bits.take(1) else None
        except ValueError:
            return None


class _Bits(Bits):
    """The bits of a unit, without the bytes that keep it apart from marks."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data[:_HEAD_BYTES].replace(b"\0\0\3", b"\0\0"))

    def signed(self) -> int:
        number = self.golomb()
        return (number + 1) // 2 if number & 1 else -number // 2


def _parameters(extradata: bytes, width: int) -> list[bytes]:
    """Return the units in the extradata of a stream."""
    if not width:
        return list(units(extradata, 0))
    found, at = [], 5
    for mask in (0x1F, 0xFF):  # sequences, then pictures: each with their number before them
        count = extradata[at] & mask if at < len(extradata) else 0
        at += 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def _sequence(unit: bytes) -> tuple[int, _Sequence]:
    """Read the number and the parameters of a sequence.

    Raises:
        ValueError: it is cut off.
    """
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    number = bits.golomb()
    separate = False
    if profile in _WITH_CHROMA:
        chroma = bits.golomb()
        separate = chroma == _FULL_CHROMA and bool(bits.take(1))
        bits.golomb()  # depth of luma
        bits.golomb()  # depth of chroma
        bits.take(1)
        if bits.take(1):
            for place in range(_LISTS_OF_FULL_CHROMA if chroma == _FULL_CHROMA else _LISTS):
                if bits.take(1):
                    _pass_scaling(bits, 16 if place < _SMALL_LISTS else 64)
    number_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # references
    bits.take(1)
    bits.golomb()  # width
    bits.golomb()  # height
    return number, _Sequence(number_bits, separate, not bits.take(1))


def _pass_scaling(bits: _Bits, count: int) -> None:
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
