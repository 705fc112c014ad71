"""The codebooks of the bundles, as files that a process asks for once."""

from __future__ import annotations

import asyncio

from service.formats.npy import write_npy
from service.shared_task import SharedTask
from service.types import Backend, ModelCard


class Codebooks:
    """The codes of VQ bundles by the bundle's hash, under which they never change.

    Args:
        backend: the tokenizer tier.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._files: dict[str, SharedTask[bytes]] = {}

    async def file(self, card: ModelCard) -> bytes:
        """Return the codes of a bundle as a NumPy file.

        Raises:
            ProblemError: what the backend raises.
        """
        file = self._files.get(card.hash)
        if file is None or file.failed:
            file = self._files[card.hash] = SharedTask(self._read(card))
        return await file.result()

    async def _read(self, card: ModelCard) -> bytes:
        return await asyncio.to_thread(write_npy, await self._backend.codebook(card.id))
