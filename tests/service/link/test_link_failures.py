"""Failures at either end of the link that end neither the link nor the process."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_link import encode, linked
from waiting import until

from service.errors import ProblemError
from service.link.client import LinkClient
from service.link.messages import Answer


async def test_an_exception_of_the_queue_fails_its_call_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        waiting = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)

        def broken(*arguments: Any) -> int:
            raise RuntimeError("a secret of the implementation")

        monkeypatch.setattr(tokenizer.backend, "start", broken)
        with pytest.raises(ProblemError) as failed:
            await encode(client)
        assert (failed.value.code, "secret" in failed.value.detail) == ("internal", False)
        tokenizer.gate.set()
        assert (await waiting).tokens is not None


async def test_a_process_without_descriptors_links_when_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.server.ACCEPT_AGAIN_SECONDS", 0.02)
    accept, tries = socket.socket.accept, 0

    def scarce(self: socket.socket) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    async with linked(tmp_path) as (client, _):
        assert (await encode(client)).tokens is not None
    assert tries == 4, "it is not tried without end"


async def test_tokenizers_are_looked_for_and_calls_expire_after_what_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.failures.log", logging.getLogger("failures"))  # the other may have another handler
    monkeypatch.setattr("service.link.client.WATCH_SECONDS", 0.01)
    look, expire, failures = LinkClient._look, LinkClient._expire, {"look": 2, "expire": 2}

    def fail_first(name: str, work: Callable[[LinkClient], None]) -> Callable[[LinkClient], None]:
        def run(self: LinkClient) -> None:
            if failures[name]:
                failures[name] -= 1
                raise LookupError("nobody foresaw this")
            work(self)

        return run

    monkeypatch.setattr(LinkClient, "_look", fail_first("look", look))
    monkeypatch.setattr(LinkClient, "_expire", fail_first("expire", expire))
    async with linked(tmp_path) as (client, [tokenizer]):
        await until(lambda: not any(failures.values()))
        assert (await encode(client)).tokens is not None
        tokenizer.gate.clear()
        with pytest.raises(ProblemError) as late:
            await encode(client, seconds=0.0)
        assert late.value.code == "deadline-exceeded"
    assert len([record for record in caplog.records if record.exc_info]) == 2


async def test_a_tokenizer_that_sends_nonsense_gets_no_more_calls(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=2) as (client, [liar, other]):
        liar.gate.clear()
        [link] = liar.server.links
        link.answer(Answer(1, 999))
        await until(lambda: not liar.server.links)
        answers = await asyncio.gather(*(encode(client) for _ in range(4)))
        assert len(answers) == 4
        assert not liar.batches
        assert other.batches
        liar.gate.set()
