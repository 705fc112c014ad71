"""glibc's memory of large blocks, kept for the next ones."""

from __future__ import annotations

import ctypes

from media.limits import MIB

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BLOCK_BYTES = 32 * MIB  # holds any common body
KEPT_BYTES = 64 * MIB  # of each arena
ARENAS = 2  # each keeps as much, and the interpreter's lock lets one thread allocate at a time


def keep_freed_blocks(block_bytes: int = BLOCK_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
    """Let the C library keep the memory of bodies and pictures for the next ones, where it is glibc.

    By itself it gives large blocks back to the kernel, which zeroes each page anew: a third of the CPU time of a body
    of many pictures, and half of that of decoding a small JPEG.

    Args:
        block_bytes: largest block that is kept.
        kept_bytes: that each arena keeps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, block_bytes)
        mallopt(M_TRIM_THRESHOLD, kept_bytes)
