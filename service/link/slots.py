"""Slots of an arena in size classes: the bookkeeping alone, without memory."""

from __future__ import annotations

from typing import NamedTuple

CLASS_BYTES = tuple(2**18 * 4**power for power in range(5))  # 256 KiB holds the commonest picture, 64 MiB any body
FAN_OUT = 4


class Slot(NamedTuple):
    """A part of the arena: offset and size, bytes."""

    offset: int
    size: int


class SlotTable:
    """The free and the taken slots of one arena. A slot splits into four of the next class, and four merge into one.

    Merging waits until a slot is asked for that only merging can give: a steady load neither splits nor merges.

    Args:
        size: bytes of the arena; a multiple of the smallest class.
    """

    def __init__(self, size: int) -> None:
        if size < CLASS_BYTES[0] or size % CLASS_BYTES[0]:
            raise ValueError(f"An arena of {size} bytes must be a multiple of {CLASS_BYTES[0]}.")
        self.size = size
        self.free_bytes = size
        self._free: dict[int, dict[int, None]] = {}  # class -> offsets, of which the last is taken first: it is warm
        self._taken: dict[int, int] = {}  # offset -> class
        offset = 0
        for size_class in reversed(CLASS_BYTES):
            count = (size - offset) // size_class
            offsets = range(offset, offset + count * size_class, size_class)
            self._free[size_class] = dict.fromkeys(reversed(offsets))
            offset += count * size_class
        self.largest = max(size_class for size_class, offsets in self._free.items() if offsets)

    @property
    def taken_slots(self) -> int:
        """Return the number of slots that are taken."""
        return len(self._taken)

    def take(self, size: int) -> Slot | None:
        """Return a slot of at least `size` bytes, or None if none is free or can be."""
        wanted = next((size_class for size_class in CLASS_BYTES if size <= size_class), None)
        if wanted is None or wanted > self.free_bytes:
            return None
        if not self._provide(wanted):
            self._merge()
            if not self._provide(wanted):
                return None
        offset, _ = self._free[wanted].popitem()
        self._taken[offset] = wanted
        self.free_bytes -= wanted
        return Slot(offset, wanted)

    def give_back(self, slot: Slot) -> None:
        """Free a slot.

        Raises:
            ValueError: the slot is not taken.
        """
        if self._taken.get(slot.offset) != slot.size:
            raise ValueError(f"The slot of {slot.size} bytes at {slot.offset} is not taken.")
        del self._taken[slot.offset]
        self._free[slot.size][slot.offset] = None
        self.free_bytes += slot.size

    def _provide(self, wanted: int) -> bool:
        """Split a larger slot unless one of the class is free; False if there is none to split."""
        if self._free[wanted]:
            return True
        if wanted == CLASS_BYTES[-1] or not self._provide(wanted * FAN_OUT):
            return False
        offset, _ = self._free[wanted * FAN_OUT].popitem()
        parts = range(offset, offset + wanted * FAN_OUT, wanted)
        self._free[wanted].update(dict.fromkeys(reversed(parts)))
        return True

    def _merge(self) -> None:
        for size_class in CLASS_BYTES[:-1]:
            free, larger = self._free[size_class], size_class * FAN_OUT
            for first in [offset for offset in free if offset % larger == 0]:
                parts = range(first, first + larger, size_class)
                if all(part in free for part in parts):
                    for part in parts:
                        del free[part]
                    self._free[larger][first] = None
