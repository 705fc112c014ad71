"""Readers of a codebook share one question to the tokenizers."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from service.api.codebooks import Codebooks
from service.errors import ProblemError

CODES = np.zeros((4, 2), np.float32)


class Tokenizers:
    """A tier that answers once `ready` is set."""

    def __init__(self, *answers: Any) -> None:
        self.ready, self.calls, self._answers = asyncio.Event(), 0, answers

    async def codebook(self, model: str) -> Any:
        self.calls += 1
        answer = self._answers[self.calls - 1]
        await self.ready.wait()
        if isinstance(answer, ProblemError):
            raise answer
        return answer


class Card:
    id, hash = "demo-vq", "0" * 64


async def test_a_crowd_is_refused_at_one_time_and_the_next_asks_again() -> None:
    tokenizers: Any = Tokenizers(ProblemError("not-ready", "No tokenizer answers."), CODES)
    codebooks, card = Codebooks(tokenizers), Card()
    crowd = [asyncio.create_task(codebooks.file(card)) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    tokenizers.ready.set()
    refusals = await asyncio.gather(*crowd, return_exceptions=True)
    assert all(isinstance(refusal, ProblemError) for refusal in refusals)
    assert tokenizers.calls == 1, "each would wait for those before it"
    files = [await codebooks.file(card) for _ in range(2)]  # type: ignore[arg-type]
    assert files[0].startswith(b"\x93NUMPY")
    assert files[0] is files[1]
    assert tokenizers.calls == 2
