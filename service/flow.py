"""The flow that a request belongs to: whose share of the device it takes, and how urgent it is."""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Self, get_args

Priority = Literal["interactive", "bulk"]
PACKED_BYTES = 9
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # the urgent one first


@dataclass(frozen=True)
class Flow:
    """Requests of one caller and one priority.

    Args:
        caller: a name or a digest of one.
        priority: bulk work runs where interactive work leaves the device idle, and a little in any case.
    """

    caller: Hashable = None
    priority: Priority = "interactive"

    @property
    def packed(self) -> bytes:
        """Return nine bytes that stand for it in another process."""
        digest = blake2b(str(self.caller).encode(), digest_size=8).digest()
        return digest + bytes([PRIORITIES.index(self.priority)])

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the flow that was packed, its caller's name a digest.

        Raises:
            ValueError: the priority or the length is wrong.
        """
        if len(packed) != PACKED_BYTES or packed[8] >= len(PRIORITIES):
            raise ValueError(f"{packed.hex()} must be {PACKED_BYTES} bytes, the last below {len(PRIORITIES)}.")
        return cls(packed[:8], PRIORITIES[packed[8]])


NOBODY = Flow()
current: ContextVar[Flow] = ContextVar("flow", default=NOBODY)  # of the request that is worked on
