"""Real processes on both ends of the link, killed at work: no slot is read after its reuse, and none is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from link_process import ARENA_BYTES
from waiting import SECONDS, until

from service.link.client import LinkClient

ROOT = Path(__file__).parents[3]
CALLERS = 12
KILLS = 3
CALLS_PER_KILL = 100


class Processes:
    """Processes of a link, and all that they wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.alive, self.output = folder, list[subprocess.Popen[str]](), ""

    async def start(self, role: str) -> subprocess.Popen[str]:
        command = [sys.executable, Path(__file__).with_name("link_process.py"), role, self._folder]
        environment = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.alive.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        self.output += process.communicate()[0]
        self.alive.remove(process)


@asynccontextmanager
async def linked(folder: Path, tokenizers: int) -> AsyncIterator[tuple[LinkClient, Processes]]:
    processes = Processes(folder)
    for _ in range(tokenizers):
        await processes.start("tokenizer")
    client = LinkClient(folder, ARENA_BYTES, tries=KILLS + 1)
    try:
        await until(lambda: client.takes("vq"))
        yield client, processes
        await until(lambda: client.free_bytes == ARENA_BYTES)
    finally:
        for process in list(processes.alive):
            processes.kill(process)
        await client.close()
    assert "reuse" not in processes.output


async def test_tokenizers_are_killed(tmp_path: Path) -> None:
    rng, outcomes, ended = random.Random(0), Counter[str](), False

    async def call(client: LinkClient) -> None:
        value, side = rng.randrange(251), rng.choice((16, 64, 200))
        pixels = np.full((1, side, side, 3), value, np.uint8)
        asked = asyncio.ensure_future(client.encode("vq", pixels, "tokens", seconds=SECONDS))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice((0, rng.random() / 200)))  # at once, or at any moment
            asked.cancel()
        await asyncio.wait([asked])
        if asked.cancelled():
            outcomes["cancelled"] += 1
            return
        tokens = asked.result().tokens
        assert tokens is not None
        outcomes["right" if (tokens == value).all() else "wrong"] += 1

    async def work(client: LinkClient) -> None:
        while not ended:
            await call(client)

    async with linked(tmp_path, tokenizers=2) as (client, processes), asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(work(client))
        for kill in range(1, KILLS + 1):
            await until(lambda goal=CALLS_PER_KILL * kill: outcomes["right"] >= goal)  # type: ignore[misc]
            processes.kill(rng.choice(processes.alive))
            await processes.start("tokenizer")
        ended = True
    assert outcomes["cancelled"] > CALLERS
    assert not outcomes["wrong"]


async def test_an_ingress_is_killed(tmp_path: Path) -> None:
    async with linked(tmp_path, tokenizers=1) as (client, processes):
        other = await processes.start("ingress")
        pixels = np.full((1, 64, 64, 3), 7, np.uint8)
        while (await client.encode("vq", pixels, "tokens", seconds=SECONDS)).timing.batch_size == 1:
            pass
        processes.kill(other)
        alone = [await client.encode("vq", pixels, "tokens", seconds=SECONDS) for _ in range(8)]
    assert alone[-1].timing.batch_size == 1, "nothing of the dead process is left"
