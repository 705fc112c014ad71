"""Sizes of elements of EBML, the structure of WebM and Matroska."""

from __future__ import annotations


def ebml_size(head: bytes, start: int) -> tuple[int | None, int]:
    """Read a variable-length size at `start`, None for unknown; return it and the position of the content."""
    if start >= len(head) or head[start] == 0:
        return None, start + 1
    length = 9 - head[start].bit_length()
    bits = 7 * length
    size = int.from_bytes(head[start : start + length], "big") & ((1 << bits) - 1)
    return (None if size == (1 << bits) - 1 else size), start + length
