"""Bits of headers, read one field after the other."""

from __future__ import annotations


class Bits:
    """The bits of a header, from the first to the last; reading on raises ValueError."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the number that the next bits write."""
        self._left -= count
        if self._left < 0:
            raise ValueError("The header is cut off.")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return the number that the next bits write by the code of H.264, which is short for small ones."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros | self.take(zeros)) - 1
