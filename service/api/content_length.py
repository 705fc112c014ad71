"""The header `Content-Length`."""

from __future__ import annotations

MAX_DIGITS = 18


def content_length(value: str) -> int | None:
    """Return the bytes that the header declares, or None if its value is not a number of bytes."""
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= MAX_DIGITS else None
