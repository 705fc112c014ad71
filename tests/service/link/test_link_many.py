"""Calls of many items over the link: each item has its own outcome, and the call moves, ends and frees as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_link import ARENA_BYTES, Tokenizer, encode, linked
from waiting import SECONDS, until

from service.errors import ProblemError
from service.link.client import LinkClient, NoTokenizerError
from service.link.messages import Answer, BadMessageError, parse_many
from service.link.slots import CLASS_BYTES
from service.types import Encoded, TokenizerKey, Want

CLIPS = [np.full((1, 16, 24, 3), value, np.uint8) for value in range(1, 7)]
TOTALS = [int(clip.sum() % 512) for clip in CLIPS]
POISON = 5


def encode_many(client: LinkClient, want: Want = "tokens", seconds: float = SECONDS) -> Awaitable[list[Any]]:
    return client.encode_many("vq", CLIPS, want, seconds=seconds)


def totals(outcomes: list[Encoded]) -> list[int]:
    return [int(outcome.tokens[0, 0, 0]) for outcome in outcomes if outcome.tokens is not None]


async def test_each_item_has_its_own_answer(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        both = await encode_many(client, "both")
        assert totals(both) == TOTALS
        assert [set(outcome.latents.flat) for outcome in both] == [{total} for total in TOTALS]
        assert totals(await encode_many(client)) == TOTALS


async def test_more_than_a_call_may_hold_goes_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.link.client.BATCH_MAX_BYTES", 2 * CLIPS[0].nbytes)
    async with linked(tmp_path, tokenizers=2) as (client, servers):
        assert totals(await encode_many(client)) == TOTALS
        assert all(server.batches for server in servers)


async def test_a_refusal_is_that_of_its_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Tokenizer.compute

    def picky(self: Tokenizer, key: TokenizerKey, payload: NDArray[Any]) -> Any:
        if payload.flat[0] == POISON:
            raise ProblemError("invalid-tensor", "This one is poison.")
        return compute(self, key, payload)

    monkeypatch.setattr(Tokenizer, "compute", picky)
    async with linked(tmp_path) as (client, _):
        outcomes = await encode_many(client)
    assert [isinstance(outcome, ProblemError) for outcome in outcomes] == [n == POISON for n in range(1, 7)]
    assert outcomes[POISON - 1].code == "invalid-tensor"


async def test_what_the_arena_refuses_leaves_the_other_groups_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.client.BATCH_MAX_BYTES", 2 * CLIPS[0].nbytes)
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        held = [asyncio.ensure_future(encode(client)) for _ in range(ARENA_BYTES // CLASS_BYTES[0] - 2)]
        await until(lambda: client.free_bytes == 2 * CLASS_BYTES[0])  # of which each group takes one
        call = asyncio.ensure_future(encode_many(client))
        await until(lambda: client.free_bytes == 0)
        tokenizer.gate.set()
        outcomes = await call
        await asyncio.gather(*held)
        assert totals(outcomes[:4]) == TOTALS[:4]
        assert [outcome.code for outcome in outcomes[4:]] == ["overloaded"] * 2


async def test_another_tokenizer_does_what_a_broken_device_had(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=2) as (client, servers):
        waiting = asyncio.ensure_future(encode_many(client))
        await until(lambda: any(server.running.is_set() for server in servers) or waiting.done())
        assert totals(await waiting) == TOTALS
        servers[0].error = ConnectionError("the device is lost")
        assert [totals(await encode_many(client)) for _ in range(2)] == [TOTALS] * 2


async def test_what_is_lost_together_is_tried_one_by_one(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=2) as (client, servers):
        for server in servers:
            server.gate.clear()
        call = asyncio.ensure_future(encode_many(client))
        await until(lambda: any(server.running.is_set() for server in servers))
        next(server for server in servers if server.running.is_set()).die()
        assert [type(outcome) for outcome in await call] == [NoTokenizerError] * len(CLIPS)
        for server in servers:
            server.gate.set()


async def test_a_caller_that_leaves_frees_the_slot_when_nothing_reads_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        first = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        held = client.free_bytes
        call = asyncio.ensure_future(encode_many(client))
        await until(lambda: sum(len(link.calls) for link in tokenizer.server.links) == 2)
        call.cancel()
        await until(lambda: client.free_bytes == held)
        tokenizer.gate.set()
        await first
        assert tokenizer.batches == 1
        assert client.free_bytes == ARENA_BYTES
        tokenizer.running.clear()
        tokenizer.gate.clear()
        call = asyncio.ensure_future(encode_many(client))
        await until(tokenizer.running.is_set)
        call.cancel()
        await until(tokenizer.is_left)
        assert client.free_bytes < ARENA_BYTES, "a batch that runs may read it"
        tokenizer.gate.set()
        await until(lambda: client.free_bytes == ARENA_BYTES)


async def test_a_deadline_is_that_of_each_item(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        first = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        outcomes = await encode_many(client, seconds=0.05)
        assert {problem.code for problem in outcomes} == {"deadline-exceeded"}
        tokenizer.gate.set()
        await first


@pytest.mark.parametrize(
    "answers",
    [[], [Answer(1, 0)], [Answer(1, 1), Answer(1, 0)], [Answer(1, 0), Answer(3, 1)], [Answer(1, n) for n in range(3)]],
)
def test_answers_of_other_items_are_refused(answers: list[Answer]) -> None:
    with pytest.raises(BadMessageError):
        parse_many(b"".join(answer.pack() for answer in answers), 2)
