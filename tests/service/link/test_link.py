"""Both ends of the link in one process: answers, refusals, cancellation, and the death of either end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import SECONDS, until

from service.errors import ProblemError
from service.flow import Flow
from service.flow import current as current_flow
from service.in_process import LocalBackend, Unobserved
from service.link.client import LinkClient, NoTokenizerError
from service.link.server import LinkServer
from service.link.slots import CLASS_BYTES
from service.settings import Settings
from service.types import Encoded, Message, ModelCard, TokenizerKey

VQ = ModelCard("vq", "a" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")
VAE = replace(VQ, id="vae", hash="b" * 64, kind="vae", codebook_size=None)
PIXEL_BLOCK = np.arange(5 * 16 * 24 * 3, dtype=np.uint8).reshape(5, 16, 24, 3)
ARENA_BYTES = 8 * CLASS_BYTES[1]


class Tokenizer:
    """A tokenizer process within this one. Its engine adds up pixels; `gate` holds a batch back, `error` fails it."""

    def __init__(self, directory: Path) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.error: Exception | None = None
        self.batches = 0
        self.backend = LocalBackend(
            [VQ, VAE], lambda *batch: partial(self.run, *batch), Settings(bundles=()), Unobserved()
        )
        self.server = LinkServer(directory, self.backend, [VQ, VAE])

    def run(self, key: TokenizerKey, payloads: Any) -> list[Any]:
        self.batches += 1
        self.running.set()
        assert not any(payload.flags.writeable for payload in payloads), "the arena of another process"
        self.gate.wait(300)
        if self.error is not None:
            raise self.error
        return [self.compute(key, payload) for payload in payloads]

    def compute(self, key: TokenizerKey, payload: NDArray[Any]) -> Any:
        grid = VQ.geometry.grid(key.size)
        total = int(payload.sum() % 512)
        if key.op == "encode":
            latents = np.full((*grid, 3), total, np.float32)
            return (np.full(grid, total, np.int32) if key.model == "vq" else None), latents
        return payload[::-1].copy() if key.op == "reconstruct" else np.full((*key.size, 3), total % 256, np.uint8)

    def is_left(self) -> bool:
        """Return whether it knows of callers that have left, and of no others."""
        calls = [call for link in self.server.links for call in link.calls.values()]
        return bool(calls) and all(call.cancelled for call in calls)

    def die(self) -> None:
        """Close every socket at once, as the kernel does for a process that is killed."""
        self.gate.set()
        self.server.close()

    async def stop(self) -> None:
        self.die()
        self.backend.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def linked(directory: Path, tokenizers: int = 1) -> AsyncIterator[tuple[LinkClient, list[Tokenizer]]]:
    servers = [Tokenizer(directory) for _ in range(tokenizers)]
    for server in servers:
        await server.server.start()
    client = LinkClient(directory, ARENA_BYTES, tries=3)
    await until(lambda: client.load()["link_tokenizers"] == tokenizers)
    try:
        yield client, servers
    finally:
        for server in servers:
            await server.stop()
        await client.close()
        assert client.free_bytes == ARENA_BYTES, "a slot was lost"


def encode(client: LinkClient, pixels: NDArray[np.uint8] = PIXEL_BLOCK, seconds: float = 120) -> Awaitable[Encoded]:
    return client.encode("vq", pixels, "tokens", seconds=seconds)


async def test_answers_come_through(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        assert client.cards == [VQ, VAE]
        total = int(PIXEL_BLOCK.sum() % 512)
        both = await client.encode("vq", PIXEL_BLOCK, "both", seconds=120)
        assert both.tokens is not None
        assert both.latents is not None
        assert (both.tokens.dtype, both.tokens.shape) == (np.int32, (2, 2, 3))
        assert set(both.tokens.flat) == {total}
        assert both.latents.shape == (2, 2, 3, 3)
        assert (await encode(client)).latents is None
        vae = await client.encode("vae", PIXEL_BLOCK, "latents", seconds=120)
        assert vae.tokens is None
        assert vae.latents is not None
        assert set(vae.latents.flat) == {total}
        back = await client.reconstruct("vq", PIXEL_BLOCK, seconds=120)
        np.testing.assert_array_equal(back.pixels, PIXEL_BLOCK[::-1])
        decoded = await client.decode("vq", both.tokens, (5, 16, 20), seconds=120)
        assert decoded.pixels.shape == (5, 16, 20, 3)
        from_latents = await client.decode("vae", both.latents, (4, 15, 24), seconds=120)
        assert from_latents.pixels.shape == (4, 15, 24, 3)
        assert from_latents.timing.batch_size == 1


async def test_a_crowd_gets_its_own_answers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crowd = [rng.integers(0, 256, (1, 16, rng.integers(8, 30), 3), np.uint8) for _ in range(20)]
    async with linked(tmp_path, tokenizers=2) as (client, servers):
        answers = await asyncio.gather(*(encode(client, pixels) for pixels in crowd))
        assert all(server.batches for server in servers)
    for pixels, answer in zip(crowd, answers, strict=True):
        assert answer.tokens is not None
        assert answer.tokens[0, 0, 0] == pixels.sum() % 512


async def test_what_comes_at_one_moment_enters_the_queue_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        start, crowds = tokenizer.backend.start, list[int]()

        def count(messages: Sequence[Message]) -> Any:
            crowds.append(len(messages))
            return start(messages)

        monkeypatch.setattr(tokenizer.backend, "start", count)
        widths = range(8, 16)
        answers = await asyncio.gather(*(encode(client, np.ones((1, 8, width, 3), np.uint8)) for width in widths))
        assert crowds == [len(widths)]
        totals = [int(answer.tokens[0, 0, 0]) for answer in answers if answer.tokens is not None]
        assert totals == [24 * width % 512 for width in widths]


async def test_refusals_come_through(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        waiting = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        with pytest.raises(ProblemError) as late:  # of a queue whose speed is not known, which takes anything
            await encode(client, seconds=0.05)
        assert late.value.code == "deadline-exceeded"
        tokenizer.gate.set()
        await waiting
        tokenizer.error = ValueError("a secret of the implementation")
        with pytest.raises(ProblemError) as failed:
            await encode(client)
        assert failed.value.code == "internal"
        assert "secret" not in failed.value.detail


async def test_a_full_arena_refuses(tmp_path: Path) -> None:
    large = np.zeros((1, 512, 512, 3), np.uint8)
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        calls = [asyncio.ensure_future(encode(client, large)) for _ in range(8)]
        await until(tokenizer.running.is_set)
        with pytest.raises(ProblemError) as refused:
            await encode(client)
        assert refused.value.code == "overloaded"
        tokenizer.gate.set()
        await asyncio.gather(*calls)


async def test_what_is_too_large_for_the_arena_takes_another_way(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        with pytest.raises(NoTokenizerError):
            await encode(client, np.zeros((1, 2048, 2048, 3), np.uint8))


async def test_a_slot_is_not_free_while_a_running_batch_may_read_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        call = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        call.cancel()
        await until(tokenizer.is_left)
        assert client.free_bytes < ARENA_BYTES
        tokenizer.gate.set()
        await until(lambda: client.free_bytes == ARENA_BYTES)


async def test_what_is_cancelled_before_it_runs_never_runs(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        first = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        others = [asyncio.ensure_future(encode(client)) for _ in range(3)]
        await asyncio.sleep(0)
        for call in others:
            call.cancel()
        await until(lambda: client.free_bytes == ARENA_BYTES - CLASS_BYTES[0])
        tokenizer.gate.set()
        await first
        assert tokenizer.batches == 1


async def test_another_tokenizer_does_what_a_dead_one_had(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=2) as (client, [victim, other]):
        victim.gate.clear()
        other.gate.clear()
        calls = [asyncio.ensure_future(encode(client)) for _ in range(6)]
        await until(victim.running.is_set)
        victim.error = OSError("killed")
        victim.die()
        other.gate.set()
        answers = await asyncio.gather(*calls)
        assert len(answers) == 6


async def test_calls_wait_for_the_replacement_of_the_only_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.client.PATIENCE_SECONDS", SECONDS)
    async with linked(tmp_path) as (client, servers):
        servers[0].gate.clear()
        calls = [asyncio.ensure_future(encode(client)) for _ in range(3)]
        await until(servers[0].running.is_set)
        servers[0].die()
        await until(lambda: client.load()["link_tokenizers"] == 0)
        assert client.takes("vq"), "the next one comes soon"
        calls.append(asyncio.ensure_future(encode(client)))
        servers.append(Tokenizer(tmp_path))
        await servers[1].server.start()
        assert len(await asyncio.gather(*calls)) == 4


async def test_calls_take_another_way_when_no_replacement_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.client.PATIENCE_SECONDS", 0.1)
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        call = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        tokenizer.die()
        with pytest.raises(NoTokenizerError):
            await call
        assert not client.takes("vq")
        assert client.cards == []


async def test_another_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.link.client.REFUSED_SECONDS", SECONDS)
    greetings, looks, look = 0, 0, LinkClient._look

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greetings, looks
        greetings, looks = greetings + 1, 0
        writer.close()

    def count(client: LinkClient) -> None:
        nonlocal looks
        looks += 1
        look(client)

    monkeypatch.setattr(LinkClient, "_look", count)
    other = await asyncio.start_unix_server(refuse, tmp_path / "other.sock")
    async with linked(tmp_path) as (client, _):
        await until(lambda: greetings > 0 and looks > 3)
        assert greetings == 1
        assert (await encode(client)).tokens is not None
    other.close()


async def test_a_closed_client_takes_no_calls(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        pass
    with pytest.raises(NoTokenizerError):
        await encode(client)


async def test_a_call_that_ends_every_tokenizer_fails(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=3) as (client, servers):
        for server in servers:
            server.gate.clear()
        call = asyncio.ensure_future(encode(client))
        for _ in servers:
            await until(lambda: any(server.running.is_set() for server in servers))
            victim = next(server for server in servers if server.running.is_set())
            victim.running.clear()
            victim.die()
        with pytest.raises(ProblemError) as failed:
            await call
        assert failed.value.code == "not-ready"


async def test_a_tokenizer_that_leaves_answers_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked(tmp_path, tokenizers=2) as (client, [leaver, _]):
        leaver.gate.clear()
        calls = [asyncio.ensure_future(encode(client)) for _ in range(4)]
        await until(leaver.running.is_set)
        retired, retire = asyncio.Event(), client.retire
        monkeypatch.setattr(client, "retire", lambda number: retired.set() or retire(number))
        leaving = asyncio.ensure_future(leaver.server.leave())
        await retired.wait()
        assert not leaving.done()
        more, before = [asyncio.ensure_future(encode(client)) for _ in range(4)], leaver.batches
        await asyncio.gather(*more)
        leaver.gate.set()
        await leaving
        await asyncio.gather(*calls)
        assert leaver.batches <= before + 1


async def test_interactive_calls_pass_bulk_ones(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        calls = [asyncio.ensure_future(encode(client))]
        await until(tokenizer.running.is_set)
        order: list[str] = []
        for width, priority in enumerate(("bulk", "interactive"), 3):
            current_flow.set(Flow("caller", priority))
            calls.append(asyncio.ensure_future(encode(client, np.zeros((1, 16, 8 * width, 3), np.uint8))))
            calls[-1].add_done_callback(lambda _, priority=priority: order.append(priority))
        await until(lambda: sum(len(link.calls) for link in tokenizer.server.links) == 3)
        tokenizer.gate.set()
        await asyncio.gather(*calls)
        assert order == ["interactive", "bulk"]


async def test_the_socket_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(os.fspath(tmp_path / "dead.sock"))
    dead.close()
    async with linked(tmp_path):
        await until(lambda: not (tmp_path / "dead.sock").exists())
