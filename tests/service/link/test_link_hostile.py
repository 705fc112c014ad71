"""Processes that write to a tokenizer by themselves, and come and go as they like."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from test_link import encode, linked
from waiting import SECONDS, until

from service.link.memory import Arena
from service.link.messages import (
    DONE,
    DROPPED,
    GREETING,
    HELLO,
    MAGIC,
    PIXELS,
    Answer,
    AnswerReader,
    Request,
    cancellation,
)
from service.link.slots import CLASS_BYTES

GOOD = Request(1, 0, 0, PIXELS, 0, (1, 8, 8, 3), (1, 8, 8), 0, 192, 0, 0, SECONDS)


async def hostile(directory: Path, arena: Arena) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    [path] = directory.glob("*.sock")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.fspath(path))
    socket.send_fds(connection, [GREETING.pack(MAGIC, arena.size)], [arena.descriptor])
    return await asyncio.open_unix_connection(sock=connection)


async def test_a_call_that_is_cancelled_as_it_comes_never_enters_the_queue(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, [tokenizer]):
        arena, answers = Arena(CLASS_BYTES[0]), AnswerReader()
        reader, writer = await hostile(tmp_path, arena)
        writer.write(GOOD.pack() + cancellation(1) + GOOD._replace(id=2).pack())
        received: list[Answer] = []
        while len(received) < 3:
            received += answers.feed(await reader.read(2**16))
        assert [(answer.kind, answer.id) for answer in received] == [(HELLO, 0), (DROPPED, 1), (DONE, 2)]
        assert tokenizer.batches == 1
        writer.close()
        arena.close()


async def test_work_of_a_dead_ingress_leaves_the_queue(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        tokenizer.gate.clear()
        first = asyncio.ensure_future(encode(client))
        await until(tokenizer.running.is_set)
        arena = Arena(CLASS_BYTES[0])
        _, writer = await hostile(tmp_path, arena)
        writer.write(b"".join(GOOD._replace(id=number).pack() for number in range(3)))
        await until(lambda: sum(len(link.calls) for link in tokenizer.server.links) == 4)
        writer.close()
        arena.close()
        await until(lambda: len(tokenizer.server.links) == 1)
        tokenizer.gate.set()
        await first
        await encode(client)
        assert tokenizer.batches == 2


async def test_nonsense_costs_its_sender_the_link(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, [tokenizer]):
        arena = Arena(CLASS_BYTES[0])
        reader, writer = await hostile(tmp_path, arena)
        writer.write(GOOD._replace(offset=arena.size).pack())
        await reader.read()
        writer.close()
        arena.close()
        assert tokenizer.batches == 0
        assert (await encode(client)).tokens is not None


@pytest.mark.parametrize("greeting", [b"short", GREETING.pack(bytes(8), 1)])
async def test_a_descriptor_that_comes_with_nonsense_is_closed(tmp_path: Path, greeting: bytes) -> None:
    async with linked(tmp_path):
        [path] = tmp_path.glob("*.sock")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(path))
        reader, writer = os.pipe()
        socket.send_fds(connection, [greeting], [writer])
        os.close(writer)
        assert await asyncio.to_thread(connection.recv, 100) == b""
        connection.close()
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b"", "nobody else holds the other end"
        os.close(reader)


async def test_an_arena_that_can_shrink_is_refused(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        descriptor = os.memfd_create("unsealed")
        os.ftruncate(descriptor, CLASS_BYTES[0])
        [path] = tmp_path.glob("*.sock")
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(path))
        socket.send_fds(connection, [GREETING.pack(MAGIC, CLASS_BYTES[0])], [descriptor])
        assert await asyncio.to_thread(connection.recv, 100) == b""
        connection.close()
        os.close(descriptor)
        assert (await encode(client)).tokens is not None
