"""Work that takes as long as its data are large: small data on the event loop, large data on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

# To copy, parse or write 16 pictures takes half a millisecond, and to ask a thread as long; 64 MiB take 90 ms.
COPY_INLINE_BYTES = 2**22

T = TypeVar("T")


async def offload(size: int, work: Callable[..., T], *arguments: object) -> T:
    """Return the result of work that copies data, without holding up the event loop for long.

    Args:
        size: of the data, bytes.
        work: little more than a copy for each byte.
        arguments: of the work.
    """
    return work(*arguments) if size <= COPY_INLINE_BYTES else await asyncio.to_thread(work, *arguments)
