"""The arena: memory of one ingress process that tokenizer processes of its node can read."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.link.slots import CLASS_BYTES, Slot, SlotTable

# Without the first, a truncation would end its readers with SIGBUS.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
RETURNED_BYTES = 2**24  # slots of this size give their pages back; smaller ones are used again at once


class Arena:
    """Anonymous shared memory with its slots.

    Args:
        size: bytes at most; at least one slot is there.
    """

    def __init__(self, size: int) -> None:
        self.size = max(size // CLASS_BYTES[0], 1) * CLASS_BYTES[0]
        self.slots = SlotTable(self.size)
        self.descriptor = os.memfd_create("omnitok-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)
        self._memory = mmap.mmap(self.descriptor, self.size)
        self.view = memoryview(self._memory)

    def close(self) -> None:
        """Close the descriptor; the memory goes with its last reader."""
        os.close(self.descriptor)

    def array(self, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the array at a place, without a copy."""
        return array_at(self._memory, offset, dtype, shape)

    def write(self, slot: Slot, arrays: Sequence[NDArray[Any]]) -> None:
        """Copy arrays that are alike to the start of a slot, one behind the other."""
        offset = slot.offset
        for array in arrays:
            self.array(offset, array.dtype.str, array.shape)[...] = array
            offset += array.nbytes

    def give_back(self, slot: Slot) -> None:
        """Free a slot."""
        self.slots.give_back(slot)
        if slot.size >= RETURNED_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE, slot.offset, slot.size)


def attach(descriptor: int, size: int) -> mmap.mmap:
    """Map the arena of another process, and close its descriptor.

    Raises:
        ValueError: it is smaller than its owner says, or could shrink.
    """
    try:
        if not 0 < size <= os.fstat(descriptor).st_size:
            raise ValueError(f"The arena has {os.fstat(descriptor).st_size} bytes, not {size}.")
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError("The arena is not sealed against shrinking.")
        return mmap.mmap(descriptor, size)
    except OSError as error:
        raise ValueError("The descriptor is not an arena.") from error
    finally:
        os.close(descriptor)


def array_at(
    memory: mmap.mmap | memoryview, offset: int, dtype: str | np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return the array at a place of a mapping, which it keeps alive; of a read-only view it is read-only."""
    return np.ndarray(shape, dtype, memory, offset)
