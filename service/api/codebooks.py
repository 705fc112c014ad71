"""The codebooks of the bundles, as files that a process asks for once."""

from __future__ import annotations

import asyncio

from service.formats.npy import write_npy
from service.types import Backend, ModelCard


class Codebooks:
    """The codes of VQ bundles by the bundle's hash, under which they never change.

    Args:
        backend: the tokenizer tier.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._files: dict[str, bytes] = {}
        self._lock = asyncio.Lock()

    async def file(self, card: ModelCard) -> bytes:
        """Return the codes of a bundle as a NumPy file.

        Raises:
            ProblemError: what the backend raises.
        """
        async with self._lock:
            if card.hash not in self._files:
                codes = await self._backend.codebook(card.id)
                self._files[card.hash] = await asyncio.to_thread(write_npy, codes)
            return self._files[card.hash]
