"""The tokenizer tier as one stream uses it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from api_server import VQ, BlockBackend

from service.api.caller import CallerBackend
from service.api.deadline import ChunkDeadline
from service.chunks import ChunkInput
from service.errors import ProblemError
from service.keys import Budget

CHUNK = ChunkInput(np.zeros((5, 16, 16, 3), np.uint8))
POSITIONS = 8
HOUR_SECONDS = 3600.0


def caller(backend: BlockBackend, budget: Budget | None = None, seconds: float = 60.0) -> CallerBackend:
    return CallerBackend(backend, ChunkDeadline(seconds), budget, {})


async def test_a_stream_outlives_a_time_without_any_replica_to_ask_for_bundles() -> None:
    backend = BlockBackend()
    mine = caller(backend)
    [card, _] = await mine.models()
    backend.cards = []  # nobody is there who could name them
    first = await mine.encode_chunk(card.id, CHUNK)
    assert (await mine.encode_chunk(card.id, ChunkInput(CHUNK.array[:4], first.state))).state.frames == 9


async def test_a_chunk_that_a_full_queue_refuses_to_the_end_is_not_charged() -> None:
    async def refuse() -> None:
        raise ProblemError("overloaded", "The queue is full.", retry_after_seconds=1.0)

    backend, budget = BlockBackend(), Budget(100.0, time.monotonic())
    mine = caller(backend, budget, seconds=0.0)
    backend.stall = refuse
    with pytest.raises(ProblemError):
        await mine.encode_chunk(VQ.id, CHUNK)
    assert budget.left == budget.per_minute
    backend.stall = None
    await mine.encode_chunk(VQ.id, CHUNK)
    assert budget.left <= budget.per_minute - POSITIONS + 1


async def test_a_chunk_does_not_wait_for_what_its_budget_got_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100.0, time.monotonic() - HOUR_SECONDS)
    budget.left = -1.0
    monkeypatch.setattr(budget, "seconds_until", None)
    await caller(BlockBackend(), budget).encode_chunk(VQ.id, CHUNK)
